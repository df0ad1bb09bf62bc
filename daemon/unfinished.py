"""Cuts connections that send a message without end, and tells of those that were cut for too many parts.

ZeroMQ hands a message on when its last part is there, bounds the size of each part, and not their number: a peer that
never ends a message would fill the memory. So for each TCP connection the kernel is asked how many bytes ZeroMQ has
taken from it, and one that gave more than the largest messages hold, while none of its messages came out, is cut.
Bytes don't tell what ZeroMQ keeps of them: 64 for each part, though it may be two on the wire, and a whole buffer for a
part of 34 that came alone. Nobody knows of it before a message ends (then the door cuts the connection: DoorSocket).
So when the process is above its budget (MemoryCeiling), connections that are in the middle of a message are cut too,
first those that have been for longer than any message takes. Of connections of `ipc://` nobody counts bytes; of these
any is cut then that no message came from, since one that rests loses nothing by it.
"""

import array
import fcntl
import os
import socket
import struct
import termios
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog

from daemon.descriptors import borrowed, cut_off
from daemon.door_socket import MOST_PARTS, DoorSocket
from daemon.log_limit import LogLimit
from daemon.memory_budget import in_mib
from daemon.memory_ceiling import MemoryCeiling
from daemon.telemetry import Telemetry

log = structlog.get_logger()

LOOK_S: Final = 1.0
# While a connection has given more than this share of what it may.
ALERT_LOOK_S: Final = 0.1
ALERT_SHARE: Final = 0.125
# Heartbeats come out as no message: so many bytes a second are nobody's fault.
HEARTBEAT_BYTES_S: Final = 256
# With CURVE and the longest name greeting and handshake are shorter than this.
HANDSHAKE_BYTES: Final = 1024
# The largest messages are on their way for less than this, unless the network is slow.
LONG_UNDER_WAY_S: Final = 1.0
PEERS_NAMED: Final = 8
# Of struct tcp_info in Linux's linux/tcp.h: the offset of tcpi_bytes_received, since Linux 4.1.
BYTES_RECEIVED: Final = 128
TCP_INFO_BYTES: Final = BYTES_RECEIVED + 8


@dataclass(slots=True)
class _Connection:
    """What is known of one connection. Bytes are those that ZeroMQ has taken from it so far, 0 over `ipc://`.

    `identity`: tells it from others that have its descriptor later. `at_message`: bytes when a message last came out,
    `forgiven`: those since that may be heartbeats. `quiet_since`: monotonic seconds; since then a message is under way.
    """

    door: DoorSocket
    descriptor: int
    identity: object
    peer: str
    taken: int
    at_message: int
    quiet_since: float
    forgiven: float = 0.0
    grows: bool = True
    # ZeroMQ closes its end later, when it reads again.
    cut: bool = False

    @property
    def unfinished(self) -> float:
        return self.taken - self.at_message - self.forgiven

    def update(self, taken: int, now: float, elapsed: float, *, heard: bool) -> None:
        self.grows, self.taken = taken > self.taken, taken
        if heard:
            self.at_message, self.forgiven = taken, 0.0
        else:
            self.forgiven = min(self.forgiven + elapsed * HEARTBEAT_BYTES_S, taken - self.at_message)
        if heard or (self.door.on_tcp and not self.unfinished):
            self.quiet_since = now


class UnfinishedGuard:
    """Looks at the doors' connections; `look` is called now and then by one thread."""

    def __init__(self, doors: Sequence[DoorSocket], telemetry: Telemetry, ceiling: MemoryCeiling) -> None:
        self._doors: dict[object, DoorSocket] = {_bound_to(door.address): door for door in doors}
        self._family = socket.AF_INET if all(door.on_tcp for door in doors) else -1
        self._telemetry = telemetry
        self._ceiling = ceiling
        self._known: dict[int, _Connection] = {}
        self._looked_at = time.monotonic()
        self._alert = False
        self._cut_log, self._parts_log = LogLimit(), LogLimit()
        self._memory_log, self._budget_log = LogLimit(), LogLimit()

    @property
    def interval_s(self) -> float:
        """How long to wait from one look to the next."""
        return min(self._ceiling.interval_s, self._look_s)

    @property
    def _look_s(self) -> float:
        return ALERT_LOOK_S if self._alert else LOOK_S

    def look(self) -> None:
        """Cut what has sent too much of a message that doesn't end, and more when memory is above its ceiling."""
        now = time.monotonic()
        elapsed = now - self._looked_at
        too_much = self._ceiling.look()
        if not self._doors or (elapsed < self._look_s and not too_much):
            return
        self._looked_at = now
        self._alert = False
        for door in self._doors.values():
            self._tell_of_many_parts(door)
        self._take_in_connections(now, elapsed)
        for door in self._doors.values():
            self._judge(door)
        if too_much:
            self._cut_for_memory(now)

    def _take_in_connections(self, now: float, elapsed: float) -> None:
        try:
            descriptors = list(map(int, os.listdir("/proc/self/fd")))  # noqa: PTH208  (the names are all that is wanted)
        except OSError:
            # None is left to look with; DescriptorGuard tells.
            return
        heard = {door: door.take_heard() for door in self._doors.values()}
        known, self._known = self._known, {}
        for descriptor in descriptors:
            # OSError: no socket, or one that is gone by now.
            with suppress(OSError), borrowed(descriptor, self._family) as connection:
                name = connection.getsockname()
                door = self._doors.get(name[1] if isinstance(name, tuple) else name)
                if door is None or connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    continue
                identity = _identity(connection)
                taken = taken_bytes(connection) if door.on_tcp else 0
                spoke = descriptor in heard[door]
                before = known.get(descriptor)
                if before is not None and before.identity == identity:
                    before.update(taken, now, elapsed, heard=spoke)
                    self._known[descriptor] = before
                else:
                    at_message = taken if spoke else min(taken, HANDSHAKE_BYTES)
                    peer = _peer(connection)
                    self._known[descriptor] = _Connection(door, descriptor, identity, peer, taken, at_message, now)

    def _judge(self, door: DoorSocket) -> None:
        """Cut those that gave too much themselves, and the largest while all of them together gave too much."""
        by_size = sorted((one for one in self._known.values() if one.door is door and not one.cut), key=_unfinished)
        together = sum(map(_unfinished, by_size))
        while by_size:
            largest = by_size.pop()
            most, most_together = door.most_unfinished_bytes, door.most_unfinished_together
            self._alert |= largest.unfinished > ALERT_SHARE * most or together > ALERT_SHARE * most_together
            if largest.unfinished <= most and together <= most_together:
                return
            together -= largest.unfinished
            if self._cut(largest):
                self._tell_of_unfinished(largest)

    def _tell_of_unfinished(self, connection: _Connection) -> None:
        self._telemetry.unfinished_cut.inc()
        if (held_back := self._cut_log.due()) is not None:
            log.error(
                "unfinished_message_cut",
                door=connection.door.address,
                peer=connection.peer,
                bytes=int(connection.unfinished),
                held_back=held_back,
                advice="It sent a message or subscriptions without end, which no client of ours does: find that "
                "program and stop it, or let only known keys in ([security]).",
            )

    def _cut_for_memory(self, now: float) -> None:
        cut = [one for one in self._in_the_middle_of_a_message(now) if self._cut(one)]
        self._ceiling.note_cut(len(cut))
        if cut:
            self._telemetry.unfinished_cut.inc(len(cut))
            self._tell_of_cut(cut)
        elif (held_back := self._budget_log.due()) is not None:
            log.warning(
                "memory_above_budget",
                held=in_mib(self._ceiling.held),
                ceiling=in_mib(self._ceiling.bytes),
                held_back=held_back,
                advice="No connection is in the middle of a message: what was cut is still being freed, or the daemon "
                "itself takes more than it was budgeted for, and goes on. If it stays so, report it with the shares "
                "that `patchline doctor` shows.",
            )

    def _tell_of_cut(self, cut: Sequence[_Connection]) -> None:
        if (held_back := self._memory_log.due(len(cut))) is not None:
            log.error(
                "memory_ceiling_cut",
                held=in_mib(self._ceiling.held),
                ceiling=in_mib(self._ceiling.bytes),
                doors=sorted({one.door.address for one in cut}),
                peers=sorted({one.peer for one in cut})[:PEERS_NAMED],
                connections=len(cut),
                bytes=sum(one.taken - one.at_message for one in cut),
                held_back=held_back,
                advice="They were in the middle of a message when the memory budget was used up: find the program that "
                "sends messages without end and stop it, or let only known keys in ([security]). Clients of ours "
                "connect again by themselves, and send again what the acked door has not acknowledged.",
            )

    def _in_the_middle_of_a_message(self, now: float) -> list[_Connection]:
        """Return those to cut: the surest first, and more when memory rose on after that, or stayed."""
        known = [one for one in self._known.values() if not one.cut]
        long_since = [one for one in known if now - one.quiet_since >= LONG_UNDER_WAY_S]
        ways = (
            [one for one in long_since if one.grows and one.unfinished > 0],
            [one for one in long_since if not one.door.on_tcp],
            [one for one in known if (one.taken > one.at_message if one.door.on_tcp else one.quiet_since < now)],
        )
        return next(filter(None, ways[self._ceiling.cuts :]), ways[-1])

    def _cut(self, connection: _Connection) -> bool:
        # OSError: it has ended by itself.
        with suppress(OSError), borrowed(connection.descriptor, self._family) as candidate:
            if _identity(candidate) == connection.identity:
                cut_off(candidate)
                self._ceiling.await_freed()
                connection.cut = True
        return connection.cut

    def _tell_of_many_parts(self, door: DoorSocket) -> None:
        cut = door.take_cut()
        if cut or door.passing_over:
            self._ceiling.await_freed()
        self._telemetry.unfinished_cut.inc(len(cut))
        if cut and (held_back := self._parts_log.due(len(cut))) is not None:
            log.error(
                "message_of_many_parts_cut",
                door=door.address,
                peers=sorted(set(cut))[:PEERS_NAMED],
                connections=len(cut),
                held_back=held_back,
                advice=f"They sent messages of more than {MOST_PARTS} parts, which no client of ours does: find that "
                "program and stop it, or let only known keys in ([security]).",
            )


def taken_bytes(connection: socket.socket) -> int:
    """Return how many bytes the program has read from a TCP connection so far."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
    if len(info) < TCP_INFO_BYTES:
        return 0
    unread = array.array("i", [0])
    fcntl.ioctl(connection.fileno(), termios.FIONREAD, unread)
    return int(struct.unpack_from("Q", info, BYTES_RECEIVED)[0]) - unread[0]


def _unfinished(connection: _Connection) -> float:
    return connection.unfinished


def _bound_to(address: str) -> object:
    """Return what getsockname tells of a door's connections: the port over TCP, else the path."""
    transport, _, rest = address.partition("://")
    if transport == "tcp":
        return int(rest.rpartition(":")[2])
    return b"\0" + rest[1:].encode() if rest.startswith("@") else rest


def _identity(connection: socket.socket) -> object:
    # Of a Unix socket the peer has no name.
    return connection.getpeername() or os.fstat(connection.fileno()).st_ino


def _peer(connection: socket.socket) -> str:
    name = connection.getpeername()
    if isinstance(name, tuple):
        return str(name[0])
    process, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return f"process {process}"
