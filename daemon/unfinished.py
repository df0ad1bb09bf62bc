"""Cuts connections that send a message without end, and tells of those that were cut for too many parts.

ZeroMQ hands a message on when its last part is there, bounds the size of each part, and not their number: a peer that
never ends a message would fill the memory. So for each TCP connection the kernel is asked how many bytes ZeroMQ has
taken from it, and one that gave more than the largest messages hold, while none of its messages came out, is cut.
Nobody knows the number of parts before a message ends, and ZeroMQ keeps 64 bytes for each, though it may be two bytes
on the wire: then the door cuts the connection (DoorSocket). Connections of `ipc://` have no count of bytes; their
file's mode says who may make one.
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

from daemon.descriptors import borrowed
from daemon.door_socket import MOST_PARTS, DoorSocket
from daemon.telemetry import Telemetry

log = structlog.get_logger()

LOOK_S: Final = 1.0
# While a connection has given more than this share of what it may.
ALERT_LOOK_S: Final = 0.1
ALERT_SHARE: Final = 0.125
# Heartbeats come out as no message: so many bytes a second are nobody's fault.
HEARTBEAT_BYTES_S: Final = 256
# Of struct tcp_info in Linux's linux/tcp.h: the offset of tcpi_bytes_received, since Linux 4.1.
BYTES_RECEIVED: Final = 128
TCP_INFO_BYTES: Final = BYTES_RECEIVED + 8


@dataclass(slots=True)
class _Connection:
    """`taken`: bytes taken when a message last came out, or when it was first seen."""

    peer: object
    taken: float


class UnfinishedGuard:
    """Looks at the doors' connections; `look` is called now and then by one thread."""

    def __init__(self, doors: Sequence[DoorSocket], telemetry: Telemetry) -> None:
        self._doors = {int(door.address.rpartition(":")[2]): door for door in doors if door.on_tcp}
        self._telemetry = telemetry
        self._known: dict[int, _Connection] = {}
        self._looked_at = time.monotonic()
        self._alert = False

    @property
    def interval_s(self) -> float:
        """How long to wait from one look to the next."""
        return ALERT_LOOK_S if self._alert else LOOK_S

    def look(self) -> None:
        """Cut what has sent too much of a message that doesn't end; a no-op within `interval_s` of the last look."""
        now = time.monotonic()
        elapsed = now - self._looked_at
        if not self._doors or elapsed < self.interval_s:
            return
        self._looked_at = now
        self._alert = False
        for door in self._doors.values():
            self._tell_of_many_parts(door)
        try:
            descriptors = list(map(int, os.listdir("/proc/self/fd")))  # noqa: PTH208  (the names are all that is wanted)
        except OSError:
            # None is left to look with; DescriptorGuard tells.
            return
        heard = {port: door.take_heard() for port, door in self._doors.items()}
        known, self._known = self._known, {}
        for descriptor in descriptors:
            # OSError: no socket, or one that is gone by now.
            with suppress(OSError), borrowed(descriptor, socket.AF_INET) as connection:
                name = connection.getsockname()
                port = name[1] if isinstance(name, tuple) else None
                if port in self._doors and not connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    before = known.get(descriptor) if descriptor not in heard[port] else None
                    self._known[descriptor] = self._judge(connection, before, elapsed, self._doors[port])

    def _judge(
        self, connection: socket.socket, before: _Connection | None, elapsed: float, door: DoorSocket
    ) -> _Connection:
        peer, taken = connection.getpeername(), taken_bytes(connection)
        if before is None or before.peer != peer:
            return _Connection(peer, taken)
        before.taken = min(before.taken + elapsed * HEARTBEAT_BYTES_S, taken)
        unfinished = taken - before.taken
        self._alert |= unfinished > ALERT_SHARE * door.most_unfinished_bytes
        if unfinished > door.most_unfinished_bytes:
            before.taken = taken
            self._telemetry.unfinished_cut.inc()
            connection.shutdown(socket.SHUT_RDWR)
            log.error(
                "unfinished_message_cut",
                door=door.address,
                peer=peer[0],
                bytes=int(unfinished),
                advice="It sent a message without end, which no client of ours does: find that program and stop it, or "
                "let only known keys in ([security]).",
            )
        return before

    def _tell_of_many_parts(self, door: DoorSocket) -> None:
        cut = door.take_cut()
        if cut:
            self._telemetry.unfinished_cut.inc(len(cut))
            log.error(
                "message_of_many_parts_cut",
                door=door.address,
                peers=sorted(set(cut)),
                connections=len(cut),
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
