"""What cameras and line controllers import. It needs ZeroMQ, msgpack, pydantic and NumPy; no network, no OpenCV."""

from daemon.errors import (
    BufferFullError,
    KeyFileError,
    MessageError,
    NotRunningError,
    OffsetsLostError,
    SenderClosedError,
    SenderError,
)
from daemon.frame_buffer import WhenFull
from daemon.keys import ClientKeys
from daemon.messages import Verdict
from daemon.outcomes import Outcome, Reason
from daemon.push_camera import PushCamera
from daemon.sender import FrameSender
from daemon.verdict_stream import VerdictStream

__all__ = [
    "BufferFullError",
    "ClientKeys",
    "FrameSender",
    "KeyFileError",
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
