"""From a picture in a camera's memory to the header and payload of its frame."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from daemon.errors import MessageError
from daemon.messages import FrameHeader, field_error, pack

# A picture file's bytes, or pixels: uint8 or uint16 [height, width] or [height, width, 3].
Pixels = bytes | bytearray | memoryview | NDArray[np.uint8] | NDArray[np.uint16]

_MAGIC: Final = {b"\xff\xd8\xff": "jpeg", b"\x89PNG": "png"}


def frame_bytes(payload: Pixels) -> bytes:
    """Return a copy that stays as it is when the camera reuses its buffer; pixels row by row, little-endian."""
    if isinstance(payload, np.ndarray):
        return payload.astype(payload.dtype.newbyteorder("<"), copy=False).tobytes()
    return bytes(payload)


def header_packer(
    camera: str, stream: int | None, payload: Pixels, fields: Mapping[str, object]
) -> Callable[[int], bytes]:
    """Check all header fields now; the returned function packs them with a seq. Raises MessageError."""
    values: dict[str, Any] = {"v": 1, "camera": camera, "captured_ns": time.time_ns(), **_picture_fields(payload)}
    if stream is not None:
        values["stream"] = stream
    values.update(fields)
    try:
        FrameHeader.model_validate({"seq": 0, **values})
    except ValidationError as error:
        raise field_error("Header", error) from error
    return lambda seq: pack({**values, "seq": seq})


def check_sender(camera: str, stream: int) -> None:
    """Raise MessageError for a camera's name or a stream that no header may state."""
    header_packer(camera, stream, b"", {"encoding": "png"})


def _picture_fields(payload: Pixels) -> dict[str, Any]:
    if not isinstance(payload, np.ndarray):
        head = bytes(payload[:4])
        encoding = next((encoding for magic, encoding in _MAGIC.items() if head.startswith(magic)), None)
        return {"encoding": encoding} if encoding is not None else {}
    if payload.dtype.kind != "u" or payload.dtype.itemsize > 2:
        raise MessageError(f"Pixels of dtype {payload.dtype} can't be sent; give uint8 or uint16.")
    color = "mono" if payload.ndim == 2 or payload.shape[2:] == (1,) else "rgb"
    return {"encoding": "raw", "shape": payload.shape, "dtype": f"u{payload.dtype.itemsize}", "color": color}
