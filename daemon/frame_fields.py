"""From a picture in a camera's memory to the header and payload of its frame."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from daemon.errors import MessageError
from daemon.messages import pack, parse_header

# A picture file's bytes, or pixels: uint8 or uint16 [height, width] or [height, width, 3].
Pixels = bytes | bytearray | memoryview | NDArray[np.uint8] | NDArray[np.uint16]

# What only the sender itself may state: another value belongs to no frame of its session.
_OWN: Final = ("v", "camera", "stream", "seq")
LAST_SEQ: Final = 2**64 - 1
_SEQ_BYTES: Final = 8
# What msgpack raises for a value that it has no form for.
_PACK_ERRORS: Final = (TypeError, ValueError, OverflowError)

_MAGIC: Final = {b"\xff\xd8\xff": "jpeg", b"\x89PNG": "png"}


def frame_bytes(payload: Pixels) -> bytes:
    """Return a copy that stays as it is when the camera reuses its buffer; pixels row by row, little-endian."""
    if isinstance(payload, np.ndarray):
        return payload.astype(payload.dtype.newbyteorder("<"), copy=False).tobytes()
    return bytes(payload)


def header_packer(
    camera: str, stream: int | None, payload: Pixels, fields: Mapping[str, object]
) -> Callable[[int], bytes]:
    """Check the header as the daemon will; the returned function packs it with a seq. Raises MessageError."""
    for name in _OWN:
        if name in fields:
            raise MessageError(f"Header field {name} is the sender's own: leave it out.")
    values: dict[str, Any] = {"v": 1, "camera": camera, "captured_ns": time.time_ns(), **_picture_fields(payload)}
    if stream is not None:
        values["stream"] = stream
    values.update(fields)
    values["seq"] = LAST_SEQ
    try:
        header = pack(values)
    except _PACK_ERRORS as error:
        raise _pack_error(values, error) from error
    parse_header(header)
    # The largest seq is packed in a mark and eight bytes, and stands last. So what leaves is what was checked.
    unnumbered = header[:-_SEQ_BYTES]
    return lambda seq: unnumbered + seq.to_bytes(_SEQ_BYTES, "big")


def check_sender(camera: str, stream: int, first_seq: int = 0) -> None:
    """Raise MessageError for a camera's name, a stream or a seq that no header may state."""
    header_packer(camera, stream, b"", {"encoding": "png"})
    if not 0 <= first_seq <= LAST_SEQ:
        raise MessageError(f"Header field seq: first_seq = {first_seq} must be from 0 to 2^64 - 1.")


def _pack_error(values: Mapping[str, object], error: Exception) -> MessageError:
    for name, value in values.items():
        try:
            pack({name: value})
        except _PACK_ERRORS as at_fault:
            return MessageError(f"Header field {name} can't be packed: {at_fault}.")
    return MessageError(f"The header can't be packed: {error}.")


def _picture_fields(payload: Pixels) -> dict[str, Any]:
    if not isinstance(payload, np.ndarray):
        head = bytes(payload[:4])
        encoding = next((encoding for magic, encoding in _MAGIC.items() if head.startswith(magic)), None)
        return {"encoding": encoding} if encoding is not None else {}
    if payload.dtype.kind != "u" or payload.dtype.itemsize > 2:
        raise MessageError(f"Pixels of dtype {payload.dtype} can't be sent; give uint8 or uint16.")
    color = "mono" if payload.ndim == 2 or payload.shape[2:] == (1,) else "rgb"
    return {"encoding": "raw", "shape": payload.shape, "dtype": f"u{payload.dtype.itemsize}", "color": color}
