"""What cameras and line controllers import. It needs ZeroMQ, msgpack, pydantic and NumPy; no network, no OpenCV."""

from daemon.errors import (
    BufferFullError,
    MessageError,
    NotRunningError,
    OffsetsLostError,
    SenderClosedError,
    SenderError,
)
from daemon.frame_buffer import WhenFull
from daemon.messages import Verdict
from daemon.outcomes import Outcome, Reason
from daemon.push_camera import PushCamera
from daemon.sender import FrameSender
from daemon.verdict_stream import VerdictStream

__all__ = [
    "BufferFullError",
    "FrameSender",
    "MessageError",
    "NotRunningError",
    "OffsetsLostError",
    "Outcome",
    "PushCamera",
    "Reason",
    "SenderClosedError",
    "SenderError",
    "Verdict",
    "VerdictStream",
    "WhenFull",
]
