"""What an evaluation found: figures, rates beside the stated ones, and every picture's outcome."""

import contextlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.errors import DataError
from patchcore_engine.metrics import Curve, Rate

Outcome = Literal["pass", "review", "fail"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureResult:
    """One test picture: `path` relative to the category's folder, its true `defect` ("good" for none), its verdict."""

    path: str
    defect: str
    outcome: Outcome
    score: float
    p_value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A picture worth looking at.

    `pixels`: uint8 [s, s, 3] RGB, the crop that was judged. `levels`: uint8 [s, s], heat on the bank's fixed scale.
    `mask`: bool [s, s], the ground truth, or None where it is unknown.
    """

    result: PictureResult
    pixels: NDArray[np.uint8]
    levels: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """Seconds spent in all, and in each step of judging the pictures."""

    total: float
    decode: float
    embed: float
    search: float
    score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """A bank's figures on one category's test set; a figure is None where the set can't support it.

    `false_rejects`: good pictures at or above the fail threshold. `reviews`: good pictures at or above the review
    threshold, the false rejects among them. `misses`: defective pictures whose outcome is pass.
    """

    category: str
    recipe: str
    bank_version: str
    image_auroc: float | None
    pixel_auroc: float | None
    aupro: float | None
    f1_max: float | None
    f1_max_threshold: float | None
    false_rejects: Rate
    reviews: Rate
    misses: Rate
    stated_fail_rate: float
    stated_review_rate: float
    fail_threshold: float
    review_threshold: float
    pixel_threshold: float
    calibration_scores: NDArray[np.float64]
    pictures: tuple[PictureResult, ...]
    skipped: tuple[str, ...]
    times: Times
    image_roc: Curve | None
    pixel_roc: Curve | None
    pro: Curve | None
    lowest_defective: tuple[Example, ...]
    highest_good: tuple[Example, ...]
    settings: dict[str, Any]

    def scores(self, *, good: bool) -> NDArray[np.float64]:
        """Return the scores of the good or of the defective pictures, float64 [n]."""
        return np.array([p.score for p in self.pictures if (p.defect == "good") == good], dtype=np.float64)

    def as_json(self) -> dict[str, Any]:
        """Return everything but the pictures and curves as values that JSON can hold."""
        return {
            "category": self.category,
            "recipe": self.recipe,
            "bank": self.bank_version,
            "image_auroc": self.image_auroc,
            "pixel_auroc": self.pixel_auroc,
            "aupro": self.aupro,
            "f1_max": self.f1_max,
            "f1_max_threshold": self.f1_max_threshold,
            "false_reject_rate": self.false_rejects.value,
            "review_rate": self.reviews.value,
            "miss_rate": self.misses.value,
            "false_rejects": asdict(self.false_rejects) | {"stated_rate": self.stated_fail_rate},
            "reviews": asdict(self.reviews) | {"stated_rate": self.stated_review_rate},
            "misses": asdict(self.misses),
            "thresholds": {
                "review": self.review_threshold,
                "fail": self.fail_threshold,
                "pixel": self.pixel_threshold,
            },
            "seconds": asdict(self.times),
            "settings": self.settings,
            "skipped": list(self.skipped),
            "pictures": [asdict(p) for p in self.pictures],
        }


def mean_figures(evaluations: Sequence[Evaluation]) -> dict[str, float | None]:
    """Return the mean of each figure over the categories that have it; None where none has."""
    means: dict[str, float | None] = {}
    for key in ("image_auroc", "pixel_auroc", "aupro", "f1_max", "false_reject_rate", "miss_rate"):
        values = [value for value in (evaluation.as_json()[key] for evaluation in evaluations) if value is not None]
        means[key] = float(np.mean(values)) if values else None
    return means


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON, whole or not at all. Raises DataError when the file can't be written."""
    text = json.dumps(value, indent=2, allow_nan=False, default=_plain) + "\n"
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise DataError(f"{path} can't be written: {error.strerror}.") from error


def percent(share: float | None) -> str:
    """Show a share as per cent with two significant digits below ten per cent, and one decimal above."""
    if share is None:
        return "-"
    value = share * 100
    digits = 1 if value == 0 or value >= 10 else max(1 - math.floor(math.log10(value)), 1)
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") + "\N{NO-BREAK SPACE}%"


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)
