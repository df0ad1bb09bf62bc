"""config.toml -> frozen, typed settings. An error names the key's path, the value and the allowed range."""

import difflib
import re
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, Union, get_args, get_origin

import annotated_types
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from daemon.errors import ConfigError
from daemon.messages import CAMERA_PATTERN
from patchcore_engine.backbones.faults import Fault

ANY_CAMERA: Final = "*"
MIB: Final = 2**20
GIB: Final = 2**30


def _address(value: str) -> str:
    if value and not value.startswith(("tcp://", "ipc://", "inproc://")):
        raise ValueError('an address that begins with tcp:// or ipc://, or "" for a closed door')
    return value


def _host_and_port(value: str) -> str:
    host, _, port = value.rpartition(":")
    if value and not (host and port.isdecimal() and int(port) < 65536):
        raise ValueError('HOST:PORT, or "" for none')
    return value


def _ascending(values: tuple[int, ...]) -> tuple[int, ...]:
    if list(values) != sorted(set(values)):
        raise ValueError("ascending, each size once")
    return values


def _bank(value: str) -> str:
    if "/" not in value and not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}", value):
        raise ValueError("a recipe's folder below banks.dir, by its name, or a path that holds a /")
    return value


Address = Annotated[str, AfterValidator(_address)]
HostAndPort = Annotated[str, AfterValidator(_host_and_port)]
Folder = Annotated[Path, Field(strict=False)]
RecipeName = Annotated[str, Field(pattern=CAMERA_PATTERN)]
CameraOrAny = Annotated[str, Field(pattern=r"^(\*|[A-Za-z0-9_.-]{1,64})$")]
BatchSize = Annotated[int, Field(ge=1, le=256)]
Milliseconds = Annotated[int, Field(ge=0, le=600_000)]


class Section(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class EngineSettings(Section):
    engine: Literal["mindspore", "openvino"] = "mindspore"
    precision_hint: Literal["auto", "float32", "bfloat16"] = "auto"
    cache_dir: Folder | None = None
    search: Literal["faiss", "device"] = "faiss"
    device: Literal["CPU", "Ascend"] = "CPU"
    device_id: Annotated[int, Field(ge=0, le=63)] = 0
    precision: Literal["float32", "float16"] = "float32"
    weights: str = ""
    weights_dir: Folder | None = None
    backbone_file: Folder | None = None
    batch_sizes: Annotated[tuple[BatchSize, ...], Field(strict=False, min_length=1), AfterValidator(_ascending)] = (
        1,
        2,
        4,
        8,
    )
    sleep_ms: Annotated[float, Field(ge=0, le=60_000)] = 0.0
    faults: Annotated[tuple[Fault, ...], Field(strict=False)] = ()


class BanksSettings(Section):
    dir: Folder = Path("banks")


class IntakeSettings(Section):
    push: Address = "tcp://127.0.0.1:5555"
    acked: Address = "tcp://127.0.0.1:5556"
    max_cameras: Annotated[int, Field(ge=1, le=10_000)] = 16
    max_streams: Annotated[int, Field(ge=1, le=10_000)] = 32
    max_frame_bytes: Annotated[int, Field(ge=1024, le=GIB)] = 32 * MIB
    max_gap: Annotated[int, Field(ge=0, le=100_000)] = 1000
    window: Annotated[int, Field(ge=1, le=1024)] = 8
    heartbeat_ms: Annotated[int, Field(ge=50, le=60_000)] = 2000


class QueueSettings(Section):
    frames: Annotated[int, Field(ge=1, le=100_000)] = 256
    frames_per_camera: Annotated[int, Field(ge=1, le=100_000)] = 128
    bytes: Annotated[int, Field(ge=1024, le=1024 * GIB)] = 512 * MIB
    shed: Literal["oldest", "block"] = "oldest"
    max_delay_ms: Milliseconds = 0


class PublishSettings(Section):
    verdicts: Address = "tcp://127.0.0.1:5557"
    replay: Address = "tcp://127.0.0.1:5558"
    heatmaps: Literal["png", "overlay", "float16", "off"] = "png"
    high_water_mark: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    heatmap_subscriptions: Annotated[int, Field(ge=1, le=10_000)] = 4


class JournalSettings(Section):
    dir: Folder | None = None
    max_age_days: Annotated[float, Field(gt=0, le=36_500)] = 90.0
    max_bytes: Annotated[int, Field(ge=MIB, le=1024 * GIB)] = 4 * GIB


class ArchiveSettings(Section):
    enabled: bool = False
    dir: Folder = Path("archive")
    every_nth_pass: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    max_age_days: Annotated[float, Field(gt=0, le=36_500)] = 30.0
    max_bytes: Annotated[int, Field(ge=MIB, le=1024 * GIB)] = 20 * GIB
    queue: Annotated[int, Field(ge=1, le=10_000)] = 64
    queue_bytes: Annotated[int, Field(ge=MIB, le=64 * GIB)] = 256 * MIB


class SecuritySettings(Section):
    server_key: str = ""
    cameras: str = ""
    subscribers: str = ""
    ipc_mode: Annotated[int, Field(ge=0, le=0o777)] = 0o600
    ipc_group: str = ""


class TelemetrySettings(Section):
    listen: HostAndPort = "127.0.0.1:9108"


class ServiceSettings(Section):
    state_dir: Folder = Path("state")
    drain_s: Annotated[float, Field(ge=0, le=3600)] = 20.0
    stuck_s: Annotated[float, Field(ge=0.1, le=3600)] = 30.0
    load_s: Annotated[float, Field(ge=1, le=7200)] = 900.0
    memory_bytes: Annotated[int, Field(ge=0, le=1024 * GIB)] = 0
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class RecipeSettings(Section):
    bank: Annotated[str, AfterValidator(_bank)]
    cameras: Annotated[tuple[CameraOrAny, ...], Field(strict=False)] = ()
    weights: str | None = None
    max_age_ms: Annotated[int, Field(ge=1, le=600_000)] | None = None
    review_threshold: Annotated[float, Field(gt=0)] | None = None
    fail_threshold: Annotated[float, Field(gt=0)] | None = None


class Settings(Section):
    """The whole of config.toml. Relative paths are taken from the folder that the daemon is started in."""

    engine: EngineSettings = EngineSettings()
    banks: BanksSettings = BanksSettings()
    intake: IntakeSettings = IntakeSettings()
    queue: QueueSettings = QueueSettings()
    publish: PublishSettings = PublishSettings()
    journal: JournalSettings = JournalSettings()
    archive: ArchiveSettings = ArchiveSettings()
    security: SecuritySettings = SecuritySettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    service: ServiceSettings = ServiceSettings()
    recipes: dict[RecipeName, RecipeSettings] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if not (self.intake.push or self.intake.acked):
            raise ValueError("intake.push and intake.acked are both closed: open at least one door")
        if self.queue.bytes < self.intake.max_frame_bytes:
            raise ValueError(
                f"queue.bytes = {self.queue.bytes} is smaller than intake.max_frame_bytes = "
                f"{self.intake.max_frame_bytes}: one frame must fit"
            )
        self._check_security()
        owners: dict[str, str] = {}
        for name, recipe in self.recipes.items():
            for camera in recipe.cameras:
                if camera in owners:
                    raise ValueError(f"camera {camera!r} is listed by recipes.{owners[camera]} and by recipes.{name}")
                owners[camera] = name
            review, fail = recipe.review_threshold, recipe.fail_threshold
            if review is not None and fail is not None and review > fail:
                raise ValueError(f"recipes.{name}: review_threshold = {review} is above fail_threshold = {fail}")
        return self

    def _check_security(self) -> None:
        security = self.security
        if not security.server_key:
            for key in ("cameras", "subscribers"):
                if getattr(security, key):
                    raise ValueError(f"security.{key} is set and security.server_key is not: no door asks for keys")
            return
        if not security.cameras:
            raise ValueError("security.cameras is needed with security.server_key: the file of their public keys")
        if (self.publish.verdicts or self.publish.replay) and not security.subscribers:
            raise ValueError(
                "security.subscribers is needed with security.server_key: the file of their public keys, "
                "or close publish.verdicts and publish.replay"
            )

    @property
    def cache_dir(self) -> Path:
        return self.engine.cache_dir if self.engine.cache_dir is not None else self.service.state_dir / "openvino"

    @property
    def journal_dir(self) -> Path:
        return self.journal.dir if self.journal.dir is not None else self.service.state_dir


def load_settings(path: Path) -> Settings:
    """Read and check a configuration file. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}. Give a file with --config.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text.") from error
    return parse_settings(text, name=path.name)


def parse_settings(text: str, *, name: str = "config.toml") -> Settings:
    """Check configuration text; `name` stands in the messages. Raises ConfigError."""
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # tomllib lets Python's own limits through: the digits of a number, the depth of lists in lists.
        raise ConfigError(f"{name} is not valid TOML: {str(error)[:_LONGEST_MESSAGE]}.") from error
    return settings_of(values, name=name)


def settings_of(values: dict[str, Any], *, name: str = "config.toml") -> Settings:
    """Check a configuration's tables and values. Raises ConfigError."""
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        more = f" ({len(errors) - 1} more fault(s) in the file)" if len(errors) > 1 else ""
        raise ConfigError(f"{name}: {_explain(errors[0])[:_LONGEST_MESSAGE]}.{more}") from error


def _explain(error: ErrorDetails) -> str:
    path = ".".join(str(part) for part in error["loc"] if part != "[key]")
    if error["type"] == "extra_forbidden":
        return f"{path}: unknown key{_suggestion(error['loc'])}"
    if error["type"] == "missing":
        return f"{path}: this key is needed"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    for words, sign in _SIGNS:
        message = message.replace(words, sign)
    if error["loc"] and error["loc"][-1] == "[key]":
        return f"{path}: a name holds 1 to 64 of A-Z a-z 0-9 _ . -"
    if error["type"] in ("model_type", "dict_type"):
        return f"{path} = {_shown(error['input'])}: must be a table, [{path}]"
    if error["type"] == "string_pattern_mismatch":
        message = "1 to 64 of A-Z a-z 0-9 _ . -"
    if not path:
        return message
    allowed = _allowed(error["loc"])
    return f"{path} = {_shown(error['input'])}: must be {message}{allowed}"


_SIGNS: Final = (
    ("greater than or equal to", ">="),
    ("less than or equal to", "<="),
    ("greater than", ">"),
    ("less than", "<"),
)
_LONGEST_SHOWN: Final = 80
_LONGEST_MESSAGE: Final = 800


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    try:
        text = f'"{value}"' if isinstance(value, str) else str(value)
    except (ValueError, RecursionError):
        text = "a value too long to be shown"
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "..."


def _suggestion(loc: tuple[int | str, ...]) -> str:
    section = _section_at(loc[:-1])
    if section is None:
        return ""
    close = difflib.get_close_matches(str(loc[-1]), section.model_fields, n=1)
    return f" (did you mean {close[0]}?)" if close else f" (known keys: {', '.join(section.model_fields)})"


def _allowed(loc: tuple[int | str, ...]) -> str:
    section = _section_at(loc[:-1])
    field = section.model_fields.get(str(loc[-1])) if section is not None else None
    if field is None:
        return ""
    low = high = None
    for constraint in (*field.metadata, *_constraints(field.annotation)):
        if isinstance(constraint, annotated_types.Ge):
            low = f"{constraint.ge}"
        elif isinstance(constraint, annotated_types.Gt):
            low = f"above {constraint.gt}"
        elif isinstance(constraint, annotated_types.Le):
            high = f"{constraint.le}"
    if low is None:
        return ""
    return f" (allowed {low} .. {high})" if high is not None else f" (allowed {low})"


def _constraints(annotation: Any) -> Iterator[object]:
    """Yield the constraints of an optional field's type, which pydantic keeps inside the union."""
    if get_origin(annotation) in (Union, types.UnionType):
        for member in get_args(annotation):
            for extra in getattr(member, "__metadata__", ()):
                yield from getattr(extra, "metadata", (extra,))


def _section_at(loc: tuple[int | str, ...]) -> type[Section] | None:
    section: type[Section] = Settings
    parts = list(loc)
    while parts:
        part = str(parts.pop(0))
        field = section.model_fields.get(part)
        if field is None:
            return None
        annotation: Any = field.annotation
        if get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
            if parts:
                parts.pop(0)
        if not (isinstance(annotation, type) and issubclass(annotation, Section)):
            return None
        section = annotation
    return section
