"""Frame headers and payload sizes, as both doors read them: a header, or an error with a reason."""

from collections.abc import Iterator

from daemon.messages import read_frame
from daemon.outcomes import Reason
from tests.daemon.line import PNG, frame_header

_REASONS = {Reason.MALFORMED, Reason.TOO_LARGE, Reason.BAD_GEOMETRY}


def seeds() -> Iterator[bytes]:
    yield frame_header()
    yield frame_header(stream=2**64 - 1, seq=2**63, trigger=-1, part="4711", recipe="caps", encoding="jpeg")
    yield frame_header(encoding="raw", shape=[4, 4, 3], dtype="u1", color="rgb", bits=8)
    yield frame_header(encoding="raw", shape=[4, 4], dtype="u2", color="mono", bits=12)


def one_input(data: bytes) -> None:
    for count in (1, 2, 3):
        parts = [memoryview(data), memoryview(PNG)][:count]
        header, error = read_frame(parts, count, max_frame_bytes=1000)
        if header is None:
            assert error is not None
        if error is not None:
            assert error.reason in _REASONS
            assert len(str(error)) < 1000
