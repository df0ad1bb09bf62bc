"""The messages of the acked door and of replay, version 1. docs/wire-format.md specifies them for other languages."""

from typing import Annotated, Any, ClassVar, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from daemon.messages import (
    MAX_HEADER_BYTES,
    MAX_MAP_BYTES,
    WIRE_VERSION,
    CameraName,
    UInt64,
    Verdict,
    Version,
    field_error,
    pack,
    unpack_map,
)

HELLO: Final = b"HELLO"
WELCOME: Final = b"WELCOME"
FRAME: Final = b"FRAME"
ACK: Final = b"ACK"
PING: Final = b"PING"
PONG: Final = b"PONG"
RESET: Final = b"RESET"

SESSION_BYTES: Final = 8
# A session ends after this many heartbeats without a message.
SILENT_HEARTBEATS: Final = 3
MAX_REPLAY_VERDICTS: Final = 1000
# Replay replies are cut after the verdict that passes REPLAY_REPLY_BYTES.
REPLAY_REPLY_BYTES: Final = 2**20
MAX_REPLY_BYTES: Final = 16 * 2**20

SessionId = Annotated[bytes, Field(min_length=SESSION_BYTES, max_length=SESSION_BYTES)]
Count = Annotated[int, Field(ge=0, lt=2**31)]
# Offsets are SQLite row ids, so below 2**63.
Offset = Annotated[int, Field(ge=0, lt=2**63)]


class WireMap(BaseModel):
    """One msgpack map of the protocol. Unknown keys are left for later revisions."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")
    # A map of empty maps takes seventy times its bytes.
    max_bytes: ClassVar[int] = MAX_HEADER_BYTES

    def pack(self) -> bytes:
        return pack(self.model_dump())


class Hello(WireMap):
    v: Version = WIRE_VERSION
    camera: CameraName
    stream: UInt64

    @property
    def routing_id(self) -> bytes:
        return sender_routing_id(self.camera, self.stream)


class Welcome(WireMap):
    v: Version = WIRE_VERSION
    session: SessionId
    window: Count
    heartbeat_ms: Annotated[int, Field(ge=1, lt=2**31)]
    max_frame_bytes: Annotated[int, Field(ge=1)] | None = None


class Ack(WireMap):
    max_bytes: ClassVar[int] = 2 * MAX_MAP_BYTES
    v: Version = WIRE_VERSION
    session: SessionId
    window: Count
    stream: UInt64
    seq: UInt64
    offset: Offset | None
    duplicate: bool
    verdict: dict[str, Any] | None

    def unpack_verdict(self) -> Verdict | None:
        """Raises MessageError."""
        return Verdict.from_map(self.verdict) if self.verdict is not None else None


class Pong(WireMap):
    v: Version = WIRE_VERSION
    window: Count


class Reset(WireMap):
    """`session` is the one that the refused message stated, empty when it stated none."""

    v: Version = WIRE_VERSION
    reason: str
    retry_ms: Count
    session: bytes = b""


class ReplayRequest(WireMap):
    v: Version = WIRE_VERSION
    id: UInt64
    first: Offset
    limit: Annotated[int, Field(ge=0, le=MAX_REPLAY_VERDICTS)]


class ReplayReply(WireMap):
    """`oldest` is the first offset still kept, `next` the one that the next verdict gets; `error` says why not."""

    max_bytes: ClassVar[int] = MAX_REPLY_BYTES
    v: Version = WIRE_VERSION
    id: UInt64
    oldest: Offset = 0
    next: Offset = 0
    verdicts: list[dict[str, Any]] = Field(default_factory=list)
    error: str | None = None


WireMapT = TypeVar("WireMapT", bound=WireMap)


def parse(model: type[WireMapT], data: bytes | memoryview) -> WireMapT:
    """Validate one map of the protocol. Raises MessageError naming the first field at fault."""
    values = unpack_map(data, limit=model.max_bytes)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise field_error(model.__name__, error) from error


def sender_routing_id(camera: str, stream: int) -> bytes:
    """Return the routing id that a sender sets before it connects, so that its new connection replaces its dead one."""
    return f"{camera}/{stream:x}".encode()
