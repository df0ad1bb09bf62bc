"""A peer of a door down to the bytes: ZeroMQ's protocol ZMTP in the versions 1.0, 2.0 and 3.0 (RFCs 13, 15 and 23)."""

import socket
import struct
from contextlib import suppress
from typing import Final, Self

from tests.daemon.line import PATIENCE_S

# Socket types as ZMTP 2.0 numbers them.
NUMBERS: Final = {"SUB": 2, "DEALER": 5, "PUSH": 8}
MORE: Final = 0x01
LONG: Final = 0x02
LONGEST_SHORT: Final = 255
GREETING: Final = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)


def ready(kind: str) -> bytes:
    """The command READY of a socket of this kind."""
    body = b"\x05READY" + b"\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind.encode()
    return b"\x04" + bytes([len(body)]) + body


def part(content: bytes, *, more: bool = False) -> bytes:
    """One part of a message in ZMTP 2.0 and 3.0."""
    if len(content) > LONGEST_SHORT:
        return struct.pack(">BQ", LONG | more, len(content)) + content
    return bytes([more, len(content)]) + content


def message(*parts: bytes) -> bytes:
    return b"".join(part(content, more=True) for content in parts[:-1]) + part(parts[-1])


def old_message(*parts: bytes) -> bytes:
    """A message in ZMTP 1.0: the length of each part counts its flags."""
    last = len(parts) - 1
    return b"".join(
        b"\xff" + struct.pack(">QB", len(content) + 1, number < last) + content for number, content in enumerate(parts)
    )


def opening(version: int, kind: str) -> bytes:
    """What a peer says in ZMTP `version` before its first message: greeting, socket type, and no name."""
    if version == 1:
        return b"\x01\x00"
    if version == 2:
        return b"\xff" + bytes(8) + b"\x7f" + b"\x01" + bytes([NUMBERS.get(kind, 0)]) + part(b"")
    return GREETING + ready(kind)


class RawPeer:
    """A connection to a door, over TCP or `ipc://`, that says what a test tells it to."""

    def __init__(self, address: str) -> None:
        transport, _, rest = address.partition("://")
        if transport == "ipc":
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(PATIENCE_S)
            self.socket.connect(rest)
            return
        host, _, port = rest.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
        # What is said in one call comes in packets of its own.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def say(self, data: bytes) -> bool:
        """Send bytes; False once the daemon has closed the connection."""
        try:
            self.socket.sendall(data)
        except ConnectionError:
            return False
        return True

    def greet(self, kind: str) -> Self:
        """Shake hands in ZMTP 3.0; a message that comes before the daemon is ready itself breaks the protocol."""
        assert self.say(opening(3, kind))
        answer = b""
        while b"READY" not in answer:
            heard = self.socket.recv(4096)
            assert heard, answer
            answer += heard
        return self

    def listen(self, seconds: float) -> None:
        """Take in what the daemon says, its greeting and heartbeats, for so long."""
        self.socket.settimeout(seconds)
        with suppress(TimeoutError, ConnectionError):
            while self.socket.recv(4096):
                pass
        self.socket.settimeout(PATIENCE_S)

    def wait_for_the_end(self) -> None:
        """Return when the daemon has closed the connection; fails if it doesn't."""
        with suppress(ConnectionError):
            while self.socket.recv(4096):
                pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_args: object) -> None:
        self.socket.close()
