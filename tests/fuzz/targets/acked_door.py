"""Conversations at the acked door: every message is answered, or handed over, once."""

from collections.abc import Iterator

from daemon.acked import MAX_PARTS, AckedDoor
from daemon.protocol import FRAME, HELLO, PING, WELCOME, Hello, Welcome, parse
from tests.daemon.line import PNG, frame_header
from tests.daemon.test_acked import TakesAll

_NAME = b"left/1"
_SESSION = b"SESSION!"  # stands for the session that the last WELCOME gave


def _message(*parts: bytes) -> bytes:
    return bytes([len(parts)]) + b"".join(bytes([len(part)]) + part for part in parts)


def seeds() -> Iterator[bytes]:
    hello = _message(_NAME, HELLO, Hello(camera="left", stream=1).pack())
    frame = _message(_NAME, FRAME, _SESSION, frame_header(stream=1, seq=1), PNG)
    yield hello + frame + _message(_NAME, PING, _SESSION)
    yield frame + hello + hello + frame + frame
    yield hello + _message(_NAME, FRAME, _SESSION, frame_header(stream=1, seq=2, encoding="bmp"), PNG)


def one_input(data: bytes) -> None:
    sent: list[list[bytes]] = []

    def send(parts: list[bytes]) -> bool:
        sent.append(parts)
        return True

    intake = TakesAll()
    door = AckedDoor(intake, send, max_window=2, max_sessions=2, heartbeat_ms=60_000, max_frame_bytes=100)
    session = b""
    for number, parts in enumerate(_messages(data), 1):
        parts = [session if part == _SESSION else part for part in parts]
        door.handle([memoryview(part) for part in parts[:MAX_PARTS]], len(parts))
        assert len(sent) + intake.taken == number
        if sent and sent[-1][1] == WELCOME:
            session = parse(Welcome, sent[-1][2]).session
    assert door.sessions <= 2


def _messages(data: bytes) -> Iterator[list[bytes]]:
    position = 0
    while position < len(data):
        count, position = data[position] % 8 or 1, position + 1
        parts = []
        for _ in range(count):
            length = data[position] if position < len(data) else 0
            parts.append(data[position + 1 : position + 1 + length])
            position += 1 + length
        yield parts
