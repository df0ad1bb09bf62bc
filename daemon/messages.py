"""The wire schema, version 1: frames in, verdicts and heat maps out, all msgpack, validated here and nowhere else.

docs/wire-format.md specifies each field for readers who write a camera or a controller.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, Self

import msgpack
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from daemon.errors import MessageError
from daemon.outcomes import Outcome, Reason

WIRE_VERSION: Final = 1
MAX_HEADER_BYTES: Final = 4096
MAX_MAP_BYTES: Final = 64 * MAX_HEADER_BYTES
CAMERA_PATTERN: Final = r"^[A-Za-z0-9_.-]{1,64}$"
# A message whose header can't be read belongs to no camera; this name is outside the cameras' alphabet.
NO_CAMERA: Final = "?"

# Not Literal[1], which would take True for 1.
Version = Annotated[int, Field(ge=WIRE_VERSION, le=WIRE_VERSION)]
UInt64 = Annotated[int, Field(ge=0, lt=2**64)]
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
CameraName = Annotated[str, Field(pattern=CAMERA_PATTERN)]
PartName = Annotated[str, Field(min_length=1, max_length=128)]

VERDICT_TOPIC: Final = b"verdict/"
HEATMAP_TOPIC: Final = b"heatmap/"


class FrameHeader(BaseModel):
    """The header of one frame. A part's identity is (camera, stream, seq)."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    v: Version
    camera: CameraName
    stream: UInt64 | None = None
    seq: UInt64
    captured_ns: Int64
    trigger: Int64 | None = None
    part: PartName | None = None
    recipe: CameraName | None = None
    encoding: Literal["raw", "jpeg", "png"]
    shape: tuple[int, int] | tuple[int, int, int] | None = None
    dtype: Literal["u1", "u2"] = "u1"
    color: Literal["mono", "rgb", "bgr"] = "mono"
    bits: Annotated[int, Field(ge=1, le=16)] | None = None

    @model_validator(mode="after")
    def _raw_frames_state_their_shape(self) -> Self:
        if self.encoding == "raw" and self.shape is None:
            raise ValueError("a raw frame needs `shape`")
        return self

    @property
    def significant_bits(self) -> int:
        return self.bits if self.bits is not None else 8 * int(self.dtype[1])


@dataclass(frozen=True, slots=True)
class Frame:
    """One received frame. `payload` may be a view into the received message."""

    header: FrameHeader
    payload: memoryview
    received_ns: int
    received_monotonic_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """One connected defect region, in pixels of the original frame."""

    x: int
    y: int
    width: int
    height: int
    area: float
    peak: float
    centroid: tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stages:
    """Microseconds that one frame spent in each stage."""

    wait: int = 0
    decode: int = 0
    embed: int = 0
    search: int = 0
    score: int = 0
    publish: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One verdict, as it travels and as it lies in the journal.

    `offset` is None only for a verdict that could not be journalled. `count` is above 1 only for a gap of `missing`
    parts reported as one event: it then stands for the parts seq .. seq + count - 1.
    """

    camera: str
    stream: int
    seq: int
    verdict: Outcome
    captured_ns: int
    received_ns: int
    offset: int | None = None
    trigger: int | None = None
    part: str | None = None
    recipe: str | None = None
    bank: str | None = None
    reason: Reason | None = None
    detail: str | None = None
    count: int = 1
    score: float | None = None
    p_value: float | None = None
    review_threshold: float | None = None
    fail_threshold: float | None = None
    regions: tuple[Region, ...] = ()
    published_ns: int | None = None
    stages: Stages = field(default_factory=Stages)
    v: int = WIRE_VERSION

    @property
    def identity(self) -> tuple[str, int, int]:
        return self.camera, self.stream, self.seq

    def to_map(self) -> dict[str, Any]:
        values = _shallow_map(self)
        values["regions"] = [_shallow_map(region) for region in self.regions]
        values["stages"] = _shallow_map(self.stages)
        return values

    def pack(self) -> bytes:
        return pack(self.to_map())

    @classmethod
    def unpack(cls, data: bytes | memoryview) -> Self:
        """Raises MessageError when `data` is no verdict of this version."""
        return cls.from_map(unpack_map(data))

    @classmethod
    def from_map(cls, values: dict[str, Any]) -> Self:
        """Raises MessageError. Fields of a later minor revision are ignored."""
        if values.get("v") != WIRE_VERSION:
            raise _other_version("verdict", values)
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        _check_fields("verdict", values, _VERDICT_TYPES)
        try:
            known["verdict"] = Outcome(known["verdict"])
            known["reason"] = Reason(known["reason"]) if known.get("reason") is not None else None
            known["regions"] = tuple(_region(region) for region in known.get("regions", ()))
            known["stages"] = _stages(known.get("stages", {}))
            return cls(**known)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MessageError(f"Not a verdict: {str(error)[:_LONGEST_SHOWN]}.") from error


def _other_version(what: str, values: dict[str, Any]) -> MessageError:
    shown = repr(values.get("v"))[:_LONGEST_SHOWN]
    return MessageError(f"A {what} of version {shown}; this client reads version {WIRE_VERSION}.")


def _region(values: dict[str, Any]) -> Region:
    region = Region(**{**values, "centroid": tuple(values["centroid"])})
    numbers = [value for name, value in values.items() if name != "centroid"] + [*region.centroid]
    if len(region.centroid) != 2 or not all(_is_number(value) for value in numbers):
        raise TypeError("a region must hold numbers")
    return region


def _stages(values: dict[str, Any]) -> Stages:
    if not all(type(value) is int for value in values.values()):
        raise TypeError("stages must be whole microseconds")
    return Stages(**values)


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _check_fields(what: str, values: dict[str, Any], types: dict[str, tuple[type, ...]]) -> None:
    """Raise MessageError unless each field is of one of its types, and the camera has a camera's name.

    Readers name files after cameras, so that a name must not leave its folder.
    """
    wrong = [name for name, allowed in types.items() if type(values.get(name)) not in allowed]
    if not wrong and not (values["camera"] == NO_CAMERA or _CAMERA.fullmatch(values["camera"])):
        wrong = ["camera"]
    if wrong:
        raise MessageError(f"Not a {what}: field {wrong[0]} is missing or of a wrong type.")


_CAMERA: Final = re.compile(CAMERA_PATTERN)
_LONGEST_SHOWN: Final = 80
_NONE: Final = type(None)
_VERDICT_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "camera": (str,),
    **dict.fromkeys(("stream", "seq", "captured_ns", "received_ns"), (int,)),
    **dict.fromkeys(("offset", "trigger", "count", "published_ns"), (int, _NONE)),
    **dict.fromkeys(("part", "recipe", "bank", "detail"), (str, _NONE)),
    **dict.fromkeys(("score", "p_value", "review_threshold", "fail_threshold"), (float, int, _NONE)),
    "regions": (list, _NONE),
    "stages": (dict, _NONE),
}
_HEATMAP_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "camera": (str,),
    **dict.fromkeys(("stream", "seq", "height", "width", "frame_height", "frame_width"), (int,)),
    "offset": (int, _NONE),
    "rect": (list,),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatmapHeader:
    """What a heat map's payload is and where it lies in the frame.

    `encoding`: "png" (uint8 on the bank's fixed scale: 0 = calibration median, 128 = pixel threshold, above it up to
    255), "overlay" (PNG, RGB, over the picture as the engine saw it) or "float16" (raw, little-endian, the map itself,
    [height, width]). `rect`: x, y, width, height in frame pixels.
    """

    camera: str
    stream: int
    seq: int
    offset: int | None
    encoding: Literal["png", "overlay", "float16"]
    height: int
    width: int
    rect: tuple[float, float, float, float]
    frame_height: int
    frame_width: int
    v: int = WIRE_VERSION

    def pack(self) -> bytes:
        return pack(_shallow_map(self))

    @classmethod
    def unpack(cls, data: bytes | memoryview) -> Self:
        """Raises MessageError when `data` is no heat map header of this version."""
        values = unpack_map(data)
        if values.get("v") != WIRE_VERSION:
            raise _other_version("heat map", values)
        _check_fields("heat map header", values, _HEATMAP_TYPES)
        rect = values["rect"]
        if len(rect) != 4 or not all(_is_number(value) for value in rect):
            raise MessageError("Not a heat map header: field rect must hold four numbers.")
        if values.get("encoding") not in ("png", "overlay", "float16"):
            raise MessageError("Not a heat map header: field encoding is none of png, overlay and float16.")
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        try:
            return cls(**{**known, "rect": tuple(rect)})
        except TypeError as error:
            raise MessageError(f"Not a heat map header: {error}.") from error


def _shallow_map(message: "Verdict | Region | Stages | HeatmapHeader") -> dict[str, Any]:
    """Return the fields as they are; `dataclasses.asdict` copies each value, in five times the time."""
    return {name: getattr(message, name) for name in message.__dataclass_fields__}


def pack(values: dict[str, Any]) -> bytes:
    return bytes(msgpack.packb(values, use_bin_type=True))


def unpack_map(data: bytes | memoryview, *, limit: int = MAX_MAP_BYTES) -> dict[str, Any]:
    """Unpack one msgpack map of at most `limit` bytes. Raises MessageError; extension types and NaN are refused."""
    if len(data) > limit:
        raise MessageError(f"A message of {len(data):,} bytes is larger than any of this protocol.")
    try:
        values = msgpack.unpackb(data, raw=False, strict_map_key=True, ext_hook=_refuse_extension)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise MessageError(f"Not a msgpack map: {error}.") from error
    if not isinstance(values, dict):
        raise MessageError("The message is no msgpack map.")
    if any(isinstance(value, msgpack.Timestamp) for value in values.values()):
        raise MessageError("The message holds a timestamp: extension types are not part of the protocol.")
    if any(isinstance(value, float) and not math.isfinite(value) for value in values.values()):
        raise MessageError("The message holds NaN or infinity.")
    return values


def _refuse_extension(code: int, _data: bytes) -> None:
    raise ValueError(f"extension type {code} is not part of the protocol")


def parse_header(data: bytes | memoryview) -> FrameHeader:
    """Validate one frame header. Raises MessageError naming the first field at fault."""
    if len(data) > MAX_HEADER_BYTES:
        raise MessageError(f"The header holds {len(data):,} bytes; {MAX_HEADER_BYTES} is the limit.")
    values = {name: value for name, value in unpack_map(data).items() if value is not None}
    shape = values.get("shape")
    if isinstance(shape, list):
        values["shape"] = tuple(shape)
    try:
        return FrameHeader.model_validate(values)
    except ValidationError as error:
        raise field_error("Header", error) from error


def field_error(what: str, error: ValidationError) -> MessageError:
    """Return the error that names the first field at fault in a message called `what`."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "map"
    return MessageError(f"{what} field {where}: {first['msg']}.")


def salvage_header(data: bytes | memoryview) -> FrameHeader | None:
    """Return the identity of a frame whose header breaks the format elsewhere; None when it states no valid one."""
    try:
        values = unpack_map(data, limit=MAX_HEADER_BYTES)
        known: dict[str, Any] = {name: values[name] for name in ("v", "camera", "seq", "stream") if name in values}
        captured_ns = values.get("captured_ns")
        known["captured_ns"] = captured_ns if type(captured_ns) is int and _fits_int64(captured_ns) else 0
        return FrameHeader.model_validate({"encoding": "png", **known})
    except (MessageError, ValidationError):
        return None


def _fits_int64(value: int) -> bool:
    return -(2**63) <= value < 2**63


def check_payload(header: FrameHeader, size: int, *, max_frame_bytes: int) -> None:
    """Raise MessageError when a payload of `size` bytes can't be the frame that `header` states."""
    if size > max_frame_bytes:
        raise MessageError(f"A frame of {size:,} bytes; {max_frame_bytes:,} is the limit.", Reason.TOO_LARGE)
    if header.encoding != "raw" or header.shape is None:
        return
    if min(header.shape) < 1:
        raise MessageError(f"Shape {list(header.shape)} is not positive.", Reason.BAD_GEOMETRY)
    channels = header.shape[2] if len(header.shape) == 3 else 1
    if channels != (1 if header.color == "mono" else 3):
        raise MessageError(f"Color {header.color} doesn't fit {channels} channel(s).", Reason.BAD_GEOMETRY)
    if header.significant_bits > 8 * int(header.dtype[1]):
        raise MessageError(f"{header.bits} bits don't fit dtype {header.dtype}.", Reason.BAD_GEOMETRY)
    expected = math.prod(header.shape) * int(header.dtype[1])
    if size != expected:
        raise MessageError(
            f"Shape {list(header.shape)} of {header.dtype} needs {expected:,} bytes; the payload holds {size:,}.",
            Reason.BAD_GEOMETRY,
        )


def read_frame(
    parts: Sequence[memoryview], count: int, *, max_frame_bytes: int
) -> tuple[FrameHeader | None, MessageError | None]:
    """Validate a frame of `count` parts, of which `parts` holds the first two: header and payload.

    Returns the header, and None if all is well, else what is wrong; the header is then the frame's identity as far as
    it can be read, or None.
    """
    try:
        header = parse_header(parts[0]) if parts else None
    except MessageError as error:
        return salvage_header(parts[0]), error
    if header is None or count != 2:
        return header, MessageError(f"A frame has a header and a payload; this one came in {count} part(s).")
    try:
        check_payload(header, len(parts[1]), max_frame_bytes=max_frame_bytes)
    except MessageError as error:
        return header, error
    return header, None
