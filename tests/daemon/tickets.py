"""Tickets for tests, as reception would make them."""

import time
from typing import Literal

from daemon.intake import ReplyToken
from daemon.messages import FrameHeader
from daemon.scheduler import Ticket


def ticket(
    seq: int,
    camera: str = "cam1",
    *,
    size: int = 10,
    recipe: str | None = "caps",
    max_age_ms: float | None = None,
    door: Literal["push", "acked"] = "push",
) -> Ticket:
    """A frame of `size` bytes that came now; `max_age_ms` from now it is late."""
    now_ns = time.monotonic_ns()
    header = FrameHeader(v=1, camera=camera, stream=1, seq=seq, captured_ns=seq, encoding="raw", shape=(1, size))
    return Ticket(
        camera=camera,
        stream=1,
        seq=seq,
        captured_ns=seq,
        received_ns=time.time_ns(),
        received_monotonic_ns=now_ns,
        door=door,
        header=header,
        payload=memoryview(bytes(size)),
        recipe=recipe,
        deadline_ns=now_ns + int(max_age_ms * 1e6) if max_age_ms is not None else None,
        reply=ReplyToken(b"id", b"session", 1, seq) if door == "acked" else None,
    )
