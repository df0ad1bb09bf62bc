"""The maps of the acked door and of replay, verdicts and heat maps as clients read them."""

import contextlib
import re
from collections.abc import Iterator

from daemon.errors import MessageError
from daemon.messages import CAMERA_PATTERN, NO_CAMERA, HeatmapHeader, Region, Verdict
from daemon.outcomes import Outcome
from daemon.protocol import Ack, Hello, Pong, ReplayReply, ReplayRequest, Reset, Welcome, WireMap, parse
from tests.daemon.heatmap_header import heatmap_header

_MODELS: tuple[type[WireMap], ...] = (Hello, Welcome, Ack, Pong, Reset, ReplayRequest, ReplayReply)
_REGION = Region(x=1, y=2, width=3, height=4, area=5.0, peak=6.0, centroid=(7.0, 8.0))
_VERDICT = Verdict(
    camera="left", stream=1, seq=2, offset=3, verdict=Outcome.FAIL, captured_ns=4, received_ns=5, regions=(_REGION,)
)
_HEATMAP = heatmap_header(_VERDICT, height=4, width=5)


def seeds() -> Iterator[bytes]:
    yield _VERDICT.pack()
    yield _HEATMAP.pack()
    session, values = b"12345678", _VERDICT.to_map()
    yield Hello(camera="left", stream=1).pack()
    yield Welcome(session=session, window=8, heartbeat_ms=2000, max_frame_bytes=1000).pack()
    yield Ack(session=session, window=8, stream=1, seq=2, offset=3, duplicate=False, verdict=values).pack()
    yield Pong(window=8).pack()
    yield Reset(reason="malformed", retry_ms=100, session=session).pack()
    yield ReplayRequest(id=1, first=0, limit=10).pack()
    yield ReplayReply(id=1, oldest=0, next=4, verdicts=[values]).pack()


def one_input(data: bytes) -> None:
    for model in _MODELS:
        with contextlib.suppress(MessageError):
            message = parse(model, data)
            if isinstance(message, Ack):
                message.unpack_verdict()
            if isinstance(message, ReplayReply):
                for values in message.verdicts:
                    Verdict.from_map(values)
    with contextlib.suppress(MessageError):
        verdict = Verdict.unpack(data)
        assert re.fullmatch(CAMERA_PATTERN, verdict.camera) or verdict.camera == NO_CAMERA
        assert Verdict.unpack(verdict.pack()) == verdict
    with contextlib.suppress(MessageError):
        hash(HeatmapHeader.unpack(data))
