"""Keeps file descriptors for the daemon's own needs: when connections have taken most, new ones are turned away.

ZeroMQ accepts connections until no descriptor is left, and then spins on those that wait. So that the journal, reloads
and /metrics find descriptors at all times, the doors' connections live below a limit of their own, SPARE under what the
system allows. Near that limit the kernel is told to drop the doors' connection requests; and the spare descriptors are
opened up, so that what waits in the doors' backlogs already is taken in and nothing spins. Requests are dropped as well
when connections were cut because memory is short, so that these don't come again at once.
"""

import ctypes
import os
import resource
import socket
import struct
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import structlog

from daemon.telemetry import Telemetry

log = structlog.get_logger()

# What connections may take altogether, where the system allows it; twice what is needed where that is more.
CONNECTIONS: Final = 4096
# More than the backlogs of four doors, 100 connections each, and the daemon's own needs.
SPARE: Final = 512
# New connections are turned away above the first share of the limit, and taken again below the second.
SHORT_SHARE, WELL_SHARE = 0.9, 0.8
LIMIT_REMEDY: Final = "LimitNOFILE= in the unit, or ulimit -Hn"
CAMERAS_REMEDY: Final = "more intake.max_cameras allow more connections, after a restart"
# Above what the kernel holds of one connection.
UNREAD_BYTES: Final = 64 * 2**20
# From Linux's asm/socket.h; Python's socket module lacks them.
SO_ATTACH_FILTER: Final = 26
SO_DETACH_FILTER: Final = 27
# Classic BPF, one instruction: return 0, take nothing of the packet (linux/filter.h).
DROP_ALL: Final = struct.pack("HBBI", 0x06, 0, 0, 0)


class DescriptorGuard:
    """Watches the process's descriptors; `look` is called now and then by one thread, as is `turn_away`.

    `doors`: addresses bound.
    """

    def __init__(self, doors: Collection[str], telemetry: Telemetry, *, needed: int) -> None:
        self._telemetry = telemetry
        self._found = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = max(CONNECTIONS, 2 * needed)
        hard = self._found[1] if self._found[1] != resource.RLIM_INFINITY else wanted + SPARE
        spare = min(SPARE, hard // 2)
        self._limit = min(wanted, hard - spare)
        self._remedy = LIMIT_REMEDY if self._limit < wanted else CAMERAS_REMEDY
        self._limit_when_short = self._limit + spare
        self._listeners = listening_descriptors(doors)
        self._short = self._for_memory = False
        self._lock = threading.Lock()
        resource.setrlimit(resource.RLIMIT_NOFILE, (self._limit, self._found[1]))
        telemetry.descriptors_limit.set(self._limit)
        telemetry.watch(telemetry.descriptors, lambda: float(open_descriptors() or self._limit_when_short))
        if needed > self._limit * SHORT_SHARE:
            log.warning(
                "descriptors_few",
                needed=needed,
                limit=self._limit,
                advice=f"So many cameras and readers as configured may need more descriptors than there are. Allow "
                f"{wanted + SPARE}: {LIMIT_REMEDY}.",
            )

    def find_listeners(self, doors: Collection[str]) -> None:
        """Look for the doors' listeners again: a door that was given another key has another. Any thread."""
        with self._lock:
            self._listeners = listening_descriptors(doors)
            self._drop_requests_if_short()

    def look(self) -> None:
        """Turn new connections away, or take them again, as the descriptors in use ask for."""
        in_use = open_descriptors()
        if not self._short and (in_use is None or in_use > SHORT_SHARE * self._limit):
            self._set_short(True)
            log.error(
                "descriptors_short",
                in_use=in_use,
                limit=self._limit,
                advice="No new connections are taken until some have ended; those there are are served. Find who opens "
                f"so many (ss -tnp), or allow more: {self._remedy}.",
            )
        elif self._short and in_use is not None and in_use < WELL_SHARE * self._limit:
            self._set_short(False)
            log.info("descriptors_well", in_use=in_use, limit=self._limit)

    def turn_away(self, *, for_memory: bool) -> None:
        """Turn new connections away because memory is short, or no longer for that reason."""
        if for_memory != self._for_memory:
            self._for_memory = for_memory
            with self._lock:
                self._drop_requests_if_short()

    def close(self) -> None:
        """Leave the limits as they were found."""
        self.turn_away(for_memory=False)
        if self._short:
            self._set_short(False)
        resource.setrlimit(resource.RLIMIT_NOFILE, self._found)

    def _drop_requests_if_short(self) -> None:
        for descriptor in self._listeners:
            _drop_requests(descriptor, drop=self._short or self._for_memory)

    def _set_short(self, short: bool) -> None:
        self._short = short
        self._telemetry.descriptors_short.set(short)
        with self._lock:
            self._drop_requests_if_short()
        soft = self._limit_when_short if short else self._limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, self._found[1]))


def open_descriptors() -> int | None:
    """Return how many descriptors this process has open; None where there is none left to look with."""
    # Since Linux 6.2 the folder's size is their number, and asking for it takes no descriptor.
    if count := os.stat("/proc/self/fd").st_size:  # noqa: PTH116  (called twice a second: no object for it)
        return count
    try:
        return len(os.listdir("/proc/self/fd")) - 1  # noqa: PTH208  (see above)
    except OSError:
        return None


def listening_descriptors(doors: Collection[str]) -> list[int]:
    """Return the descriptor of each door that listens on TCP; a Unix socket is for local users, and left open."""
    ports = {int(door.rpartition(":")[2]) for door in doors if door.startswith("tcp://")}
    descriptors = map(int, os.listdir("/proc/self/fd"))  # noqa: PTH208  (the names are all that is wanted)
    return [descriptor for descriptor in descriptors if _listens(descriptor, ports)]


def _listens(descriptor: int, ports: Collection[int]) -> bool:
    # OSError: no socket, or the descriptor of the listing itself, closed by now.
    with suppress(OSError), borrowed(descriptor) as candidate:
        on_tcp = candidate.family in (socket.AF_INET, socket.AF_INET6) and candidate.getsockname()[1] in ports
        return on_tcp and bool(candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    return False


def _drop_requests(descriptor: int, *, drop: bool) -> None:
    instructions = ctypes.create_string_buffer(DROP_ALL, len(DROP_ALL))
    program = struct.pack("HL", 1, ctypes.addressof(instructions))
    # A kernel without filters takes connections until the spare descriptors are gone, too.
    with suppress(OSError), borrowed(descriptor) as listener:
        if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            # A door that is just being given another key.
            return
        if drop:
            listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
        else:
            listener.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


@contextmanager
def borrowed(descriptor: int, family: int = -1) -> Iterator[socket.socket]:
    """A socket object for ZeroMQ's descriptor, which it must not close; with `family` the kernel isn't asked for it."""
    kind = -1 if family == -1 else socket.SOCK_STREAM
    borrowed = socket.socket(family, kind, -1 if family == -1 else 0, fileno=descriptor)
    try:
        yield borrowed
    finally:
        borrowed.detach()


def cut_off(connection: socket.socket) -> None:
    """End a connection, and throw away what the kernel holds of it: ZeroMQ would go on taking that in. Raises OSError.

    ZeroMQ has then taken in what came before that, and nothing that came after: no message gets a hole.
    """
    # A peer that waits for room to send hears of the end by the reset that ZeroMQ's closing is then.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.shutdown(socket.SHUT_RDWR)
    # One call, for the kernel lets nobody else read meanwhile; over TCP it copies nothing.
    with suppress(OSError, MemoryError):
        connection.recv(UNREAD_BYTES, socket.MSG_TRUNC | socket.MSG_DONTWAIT)
