"""A cable between two ends of TCP that can be pulled: what a plain user has in place of a network to cut."""

import contextlib
import selectors
import socket
import struct
import threading
from types import TracebackType
from typing import Self

from daemon.sockets import Waker

# What one end has sent and the other has not taken; at this much the cable reads no more, as a real one would not.
BUFFER_BYTES = 256 * 1024
READ_BYTES = 64 * 1024
RESET_AT_CLOSE = struct.pack("ii", 1, 0)


class _End:
    """One connected socket, and what waits to be written to it."""

    def __init__(self, opened: socket.socket) -> None:
        opened.setblocking(False)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = opened
        self.waiting = bytearray()
        self.other: _End


class Cable:
    """Forwards `address` of its own to the door at `target`, both tcp://127.0.0.1:PORT, on a thread of its own."""

    def __init__(self, target: str) -> None:
        self._target = _host_and_port(target)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.cuts = 0
        self._waker = Waker()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._waker.fileno(), selectors.EVENT_READ)
        self._ends: set[_End] = set()
        self._cut_asked = self._closing = False
        self._silent = False
        self._thread = threading.Thread(target=self._run, name="cable", daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Break every connection at once, by a reset as a host sends it that knows nothing of it any more."""
        self._cut_asked = True
        self._waker.wake()

    def pull(self) -> None:
        """Carry nothing more, without a word to either end, until `plug`."""
        self._silent = True
        self._waker.wake()

    def plug(self) -> None:
        self._silent = False
        self._waker.wake()

    def close(self) -> None:
        self._closing = True
        self._waker.wake()
        self._thread.join()
        self._selector.close()
        self._waker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, _error: object, _trace: TracebackType | None) -> None:
        self.close()

    def _run(self) -> None:
        while not self._closing:
            for key, events in self._selector.select():
                if key.fileobj is self._listener:
                    self._connect()
                elif key.data is None:
                    self._waker.clear()
                elif key.data in self._ends:
                    self._carry(key.data, events)
            if self._cut_asked:
                self._cut_asked = False
                self.cuts += 1
                self._drop_all()
            for end in self._ends:
                self._watch(end)
        self._drop_all()
        self._listener.close()

    def _connect(self) -> None:
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection(self._target, timeout=5)
        except OSError:
            near.close()
            return
        ends = _End(near), _End(far)
        ends[0].other, ends[1].other = ends[1], ends[0]
        for end in ends:
            self._ends.add(end)
            self._selector.register(end.socket, selectors.EVENT_READ, end)

    def _carry(self, end: _End, events: int) -> None:
        try:
            if events & selectors.EVENT_READ:
                received = end.socket.recv(READ_BYTES)
                if not received:
                    raise ConnectionError
                end.other.waiting += received
            for writer in (end, end.other):
                with contextlib.suppress(BlockingIOError):
                    while writer.waiting and not self._silent:
                        del writer.waiting[: writer.socket.send(writer.waiting)]
        except OSError:
            self._drop(end)

    def _watch(self, end: _End) -> None:
        readable = not self._silent and len(end.other.waiting) < BUFFER_BYTES
        events = selectors.EVENT_READ * readable | selectors.EVENT_WRITE * bool(end.waiting and not self._silent)
        registered = end.socket in self._selector.get_map()
        if events and registered:
            self._selector.modify(end.socket, events, end)
        elif events:
            self._selector.register(end.socket, events, end)
        elif registered:
            self._selector.unregister(end.socket)

    def _drop(self, end: _End) -> None:
        for one in (end, end.other):
            if one.socket in self._selector.get_map():
                self._selector.unregister(one.socket)
            with contextlib.suppress(OSError):
                one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
            one.socket.close()
            self._ends.discard(one)

    def _drop_all(self) -> None:
        while self._ends:
            self._drop(next(iter(self._ends)))


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return host, int(port)
