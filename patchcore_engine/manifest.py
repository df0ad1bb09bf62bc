"""What a memory bank's manifest.json says: how the bank was made, what it decides by, and the digests of its files."""

import hashlib
import json
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from patchcore_engine.backbones.extractor import EmbeddingMode, ExtractorIdentity
from patchcore_engine.errors import BankDamagedError, GeometryError
from patchcore_engine.images import Geometry
from patchcore_engine.index import IndexKind
from patchcore_engine.scoring import HeatScale, ScoreMode

FORMAT_VERSION: Final = 2

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Rate = Annotated[float, Field(gt=0, lt=1)]
# What may differ between two runs of the same fit.
_NOT_CONTENT: Final = frozenset({"created", "libraries", "digest", "seconds"})
# Stands in the digest's place while the digest is taken.
_UNSEALED: Final = "0" * 64
_LONGEST_SHOWN: Final = 40
# Written only where they are set: most banks have neither.
_ONLY_WHERE_SET: Final = frozenset({"coreset_merge", "calibrated"})


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class ThresholdEntry(_Part):
    """See `calibration.Threshold`."""

    value: float
    rate: Rate
    method: Literal["empirical", "generalised_pareto"]
    interval: tuple[float, float]
    tail_shape: float | None = None
    tail_scale: float | None = None
    tail_location: float | None = None


class Thresholds(_Part):
    """`review` and `fail` on the image score, `pixel` on the anomaly map."""

    review: ThresholdEntry
    fail: ThresholdEntry
    pixel: ThresholdEntry


class CoresetMerge(_Part):
    """How a coreset was merged: chunks of `chunk_pictures` put `candidates` forward, `multiple` times what is kept."""

    chunk_pictures: Annotated[int, Field(ge=1)]
    multiple: Annotated[int, Field(ge=1)]
    candidates: Annotated[int, Field(ge=1)]


class Manifest(_Part):
    """The settings, thresholds and digests of one bank.

    `coreset_merge`: None where the coreset was made in one pass. `n_neighbors`: as many weigh a score; fewer than asked
    for where some picture that calibrates was left no more. `calibrated`: how many of the pictures were scored for the
    thresholds, None for all.
    """

    format: Literal[2]
    recipe: str
    created: str
    backbone: str
    weights_digest: Digest
    precision: Literal["float32", "float16"]
    embedding: EmbeddingMode
    resize: int
    image_size: int
    grid: tuple[int, int]
    dimension: int
    coreset_ratio: Annotated[float, Field(gt=0, le=1)]
    coreset_merge: CoresetMerge | None = None
    index: IndexKind
    index_projected: Annotated[int, Field(ge=1)] | None = None
    index_visited: float | None = None
    index_compared: float | None = None
    vectors: Annotated[int, Field(ge=1)]
    patches: Annotated[int, Field(ge=1)]
    score_mode: ScoreMode
    reweight: bool
    n_neighbors: Annotated[int, Field(ge=1)]
    thresholds: Thresholds
    heat_median: float
    pictures: Annotated[int, Field(ge=1)]
    calibrated: Annotated[int, Field(ge=1)] | None = None
    skipped: tuple[str, ...] = ()
    data_digest: Digest
    seed: int
    libraries: dict[str, str]
    seconds: dict[str, float]
    files: dict[str, Digest]
    digest: Digest = _UNSEALED

    @model_validator(mode="after")
    def _values_agree(self) -> Self:
        try:
            _ = self.geometry
        except GeometryError as error:
            raise ValueError(str(error)) from error
        if min(*self.grid, self.dimension) < 1 or self.vectors > self.patches:
            raise ValueError("grid, dimension, vectors and patches don't fit each other")
        if self.calibration_pictures > self.pictures:
            raise ValueError("more pictures calibrated than there were")
        levels = self.thresholds
        if not 0 <= levels.review.value <= levels.fail.value or levels.pixel.value < 0:
            raise ValueError("the review threshold must lie between 0 and the fail threshold")
        return self

    @property
    def calibration_pictures(self) -> int:
        """How many of the pictures were scored for the thresholds."""
        return self.pictures if self.calibrated is None else self.calibrated

    @property
    def geometry(self) -> Geometry:
        return Geometry(resize=self.resize, image_size=self.image_size)

    @property
    def heat_scale(self) -> HeatScale:
        return HeatScale(self.heat_median, self.thresholds.pixel.value)

    @property
    def extractor_identity(self) -> ExtractorIdentity:
        return ExtractorIdentity(
            backbone=self.backbone,
            weights_digest=self.weights_digest,
            embedding=self.embedding,
            image_size=self.image_size,
            precision=self.precision,
        )

    def content_digest(self) -> str:
        """Return the SHA-256 of all that decides a verdict: equal for fits of the same pictures, settings and seed."""
        content = self.model_dump(mode="json", exclude={*_NOT_CONTENT, *self._unset()})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def version_suffix(self) -> str:
        """What the name of the version's folder ends in."""
        return self.digest[:8]

    def sealed(self) -> Self:
        """Return the same manifest with its digest: the SHA-256 of its file, 64 zeros in the digest's place."""
        blank = self.model_copy(update={"digest": _UNSEALED})
        return blank.model_copy(update={"digest": hashlib.sha256(blank.to_json()).hexdigest()})

    def to_json(self) -> bytes:
        return self.model_dump_json(indent=2, exclude=self._unset()).encode() + b"\n"

    def _unset(self) -> set[str]:
        return {name for name in _ONLY_WHERE_SET if getattr(self, name) is None}

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises BankDamagedError when `data` is no manifest of this format, or not what its own digest says."""
        try:
            values: Any = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise BankDamagedError("The manifest is no JSON file.") from error
        found = values.get("format") if isinstance(values, dict) else None
        if type(found) is not int or found != FORMAT_VERSION:
            shown = repr(found)[:_LONGEST_SHOWN]
            raise BankDamagedError(
                f"The manifest has format {shown}; this version reads format {FORMAT_VERSION}: fit the bank anew."
            )
        try:
            manifest = cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])[:_LONGEST_SHOWN]
            of = f"'s {where}" if where else ""
            raise BankDamagedError(
                f"The manifest{of} is wrong: {first['msg'].removeprefix('Value error, ')}."
            ) from error
        digest = manifest.digest.encode()
        blank = data.replace(digest, _UNSEALED.encode())
        if data.count(digest) != 1 or hashlib.sha256(blank).hexdigest() != manifest.digest:
            raise BankDamagedError("The manifest's content doesn't match its own digest: it was edited or damaged.")
        return manifest
