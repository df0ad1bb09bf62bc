"""Figures of merit: AUROC, per-region overlap, F1, and what a count of errors says about a rate."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import beta

AUPRO_LIMIT = 0.3
"""The false-positive rate up to which MVTec AD integrates the per-region overlap."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A share counted on a sample, `count` of `total`, with its 95 % Clopper-Pearson interval `low` to `high`."""

    count: int
    total: int
    low: float
    high: float

    @property
    def value(self) -> float | None:
        """The share itself; None where nothing was counted."""
        return self.count / self.total if self.total else None


@dataclass(frozen=True, slots=True)
class Curve:
    """A curve over the false-positive rate; both arrays are float64 [points] from 0 to 1, `x` ascending."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PixelFigures:
    """Figures over all pixels of a test set; None where the set has no defective or no good pixels."""

    auroc: float | None
    aupro: float | None
    roc: Curve | None
    pro: Curve | None


def auroc(good: NDArray[np.floating], defective: NDArray[np.floating]) -> float | None:
    """Return the probability that a defective score exceeds a good one, ties counted half. Scores: [n] and [m].

    This is the area under the ROC curve. None where either side is empty.
    """
    if not len(good) or not len(defective):
        return None
    ordered = np.sort(good)
    below = int(np.searchsorted(ordered, defective, side="left").sum())
    below_or_equal = int(np.searchsorted(ordered, defective, side="right").sum())
    return (below + below_or_equal) / (2 * len(good) * len(defective))


def roc_curve(good: NDArray[np.floating], defective: NDArray[np.floating]) -> Curve:
    """Return the ROC curve, true-positive over false-positive rate, one point per distinct score."""
    thresholds = np.unique(np.concatenate([good, defective]))[::-1]
    sorted_good, sorted_defective = np.sort(good), np.sort(defective)
    x = 1 - np.searchsorted(sorted_good, thresholds, side="left") / len(good)
    y = 1 - np.searchsorted(sorted_defective, thresholds, side="left") / len(defective)
    return Curve(np.concatenate([[0.0], x]), np.concatenate([[0.0], y]))


def f1_max(good: NDArray[np.floating], defective: NDArray[np.floating]) -> tuple[float, float] | None:
    """Return the largest F1 of any threshold (a score at or above it is called defective), and that threshold."""
    if not len(defective):
        return None
    thresholds = np.unique(np.concatenate([good, defective]))
    true_positives = len(defective) - np.searchsorted(np.sort(defective), thresholds, side="left")
    false_positives = len(good) - np.searchsorted(np.sort(good), thresholds, side="left")
    f1 = 2 * true_positives / (true_positives + false_positives + len(defective))
    best = int(np.argmax(f1))
    return float(f1[best]), float(thresholds[best])


def rate(count: int, total: int, *, confidence: float = 0.95) -> Rate:
    """Return the share `count` of `total` with its exact binomial interval.

    C. Clopper and E. Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
    Biometrika 26 (1934).
    """
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, count, total - count + 1)) if count > 0 else 0.0
    high = float(beta.ppf(1 - tail, count + 1, total - count)) if count < total else 1.0
    return Rate(count, total, low, high)


class PixelScores:
    """Gathers anomaly maps and their masks, keeping 4 bytes a pixel, and works out the pixel figures.

    The per-region overlap is that of MVTec AD's evaluation: the share of each ground-truth region (8-connected) that
    lies at or above a threshold, averaged over all regions, over the false-positive rate of all good pixels of the
    set, integrated to 0.3 and divided by it. All areas are exact: nothing is binned.
    """

    def __init__(self) -> None:
        self._good: list[NDArray[np.float32]] = []
        self._defective: list[NDArray[np.float32]] = []
        self._regions: list[NDArray[np.int32]] = []
        self._region_count = 0

    def add(self, anomaly_map: NDArray[np.float32], mask: NDArray[np.bool_]) -> None:
        """Add one picture: its map, float32 [h, w], and its ground truth, bool [h, w], true on the defect."""
        if not mask.any():
            self._good.append(anomaly_map.ravel().copy())
            return
        labels, count = ndimage.label(mask, structure=np.ones((3, 3), np.int_))
        self._good.append(anomaly_map[~mask])
        self._defective.append(anomaly_map[mask])
        self._regions.append(labels[mask].astype(np.int32) - 1 + self._region_count)
        self._region_count += count

    def figures(self, *, limit: float = AUPRO_LIMIT, points: int = 201) -> PixelFigures:
        """Work out the figures from what was added; the curves have `points` points, the overlap's up to `limit`."""
        good = np.concatenate(self._good) if self._good else np.empty(0, np.float32)
        self._good = [good]
        if not good.size or not self._defective:
            return PixelFigures(None, None, None, None)
        good.sort()
        defective, regions = np.concatenate(self._defective), np.concatenate(self._regions)
        order = np.argsort(defective)
        defective, regions = defective[order], regions[order]
        sizes = np.bincount(regions, minlength=self._region_count)
        overlap_weights = 1 / (sizes[regions] * self._region_count)
        pixel_weights = np.full(defective.size, 1 / defective.size)
        above, at_least = _false_positive_rates(good, defective)
        return PixelFigures(
            auroc=_area(above, at_least, pixel_weights, limit=1.0),
            aupro=_area(above, at_least, overlap_weights, limit=limit) / limit,
            roc=_sampled_curve(good, defective, pixel_weights, np.linspace(0, 1, points) ** 2),
            pro=_sampled_curve(good, defective, overlap_weights, np.linspace(0, 1, points) ** 2 * limit),
        )


def _false_positive_rates(
    sorted_good: NDArray[np.floating], scores: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the shares of good scores above each of `scores`, and at or above it."""
    above = 1 - np.searchsorted(sorted_good, scores, side="right") / len(sorted_good)
    at_least = 1 - np.searchsorted(sorted_good, scores, side="left") / len(sorted_good)
    return above, at_least


def _area(
    above: NDArray[np.float64], at_least: NDArray[np.float64], weights: NDArray[np.float64], *, limit: float
) -> float:
    """Integrate a weighted ROC curve from false-positive rate 0 to `limit`.

    A score whose threshold moves the rate from `above` to `at_least` adds a ramp of height `weights` between them and
    a plateau beyond: the trapezoid rule, summed over scores instead of thresholds.
    """
    start, end = np.minimum(above, limit), np.minimum(at_least, limit)
    width = at_least - above
    reached = np.divide(end - start, width, out=np.ones_like(width), where=width > 0)
    return min(float(np.sum(weights * (reached * (end - start) / 2 + (limit - end)))), limit)


def _sampled_curve(
    sorted_good: NDArray[np.float32],
    sorted_defective: NDArray[np.float32],
    weights: NDArray[np.float64],
    rates: NDArray[np.float64],
) -> Curve:
    """Sample a weighted ROC curve at thresholds that give about `rates`; `weights` are those of `sorted_defective`."""
    count = len(sorted_good)
    ranks = np.clip(count - np.round(rates * count).astype(np.int64), 0, count - 1)
    thresholds = sorted_good[ranks]
    x = 1 - np.searchsorted(sorted_good, thresholds, side="left") / count
    at_or_above = np.append(np.cumsum(weights[::-1])[::-1], 0.0)
    y = at_or_above[np.searchsorted(sorted_defective, thresholds, side="left")]
    none_wrong = at_or_above[np.searchsorted(sorted_defective, sorted_good[-1], side="right")]
    return Curve(np.concatenate([[0.0], x]), np.clip(np.concatenate([[none_wrong], y]), 0, 1))
