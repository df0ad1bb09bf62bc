"""From good parts' scores to thresholds that keep a stated false-reject rate, and to p-values."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import boxcox

from patchcore_engine.errors import CalibrationError

MINIMUM_PICTURES: Final = 10
_TAIL_FRACTION: Final = 0.2
# Below MINIMUM_PICTURES, so that a score is left for the tail to begin at.
_SMALLEST_TAIL: Final = 8
_BOOTSTRAP_SAMPLES: Final = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class Threshold:
    """A score that good parts reach at a stated rate, or where many are equal, more rarely.

    `method`: "empirical" where the good parts themselves support the rate, else "generalised_pareto", a fit to their
    upper tail (Pickands-Balkema-de Haan). `interval`: 95 % interval of the value, from a seeded bootstrap.
    """

    value: float
    rate: float
    method: Literal["empirical", "generalised_pareto"]
    interval: tuple[float, float]
    tail_shape: float | None = None
    tail_scale: float | None = None
    tail_location: float | None = None


def threshold_at(scores: NDArray[np.float64], rate: float, seed: int) -> Threshold:
    """Return the score that a good part reaches with probability `rate`.

    `scores`: leave-one-out scores of n good parts, n >= 10. With n >= 1 / rate - 1 the conformal quantile serves: the
    ceil((n + 1)(1 - rate))-th smallest score, or the next float32 above where good parts equal to it would make more
    than `rate` reach it; otherwise the tail is extrapolated. Raises CalibrationError.
    """
    count = len(scores)
    if count < MINIMUM_PICTURES:
        raise CalibrationError(
            f"{count} good picture(s) are too few to calibrate: at least {MINIMUM_PICTURES} are needed, "
            "50 or more make the thresholds trustworthy."
        )
    if not np.isfinite(scores).all():
        raise CalibrationError("A good picture has a score that is no number: check the weights and the pictures.")
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    resamples = np.sort(np.random.default_rng(seed).choice(ordered, (_BOOTSTRAP_SAMPLES, count)), axis=1)
    rank = int(np.ceil((count + 1) * (1 - rate) - 1e-9))
    if rank <= count:
        value = float(ordered[rank - 1])
        low, high = _interval(resamples[:, rank - 1])
        if rank > 1 and ordered[rank - 2] == value:
            value = _next_above(value)
            high = max(high, value)
        return Threshold(value=value, rate=rate, method="empirical", interval=(low, high))
    tail_size = max(round(count * _TAIL_FRACTION), _SMALLEST_TAIL)
    location, scale, shape = (float(values[0]) for values in _fit_tail(ordered[None, :], tail_size))
    fraction = tail_size / count
    samples = _tail_quantile(*_fit_tail(resamples, tail_size), rate / fraction)
    return Threshold(
        value=float(max(_tail_quantile(location, scale, shape, rate / fraction), ordered[-1])),
        rate=rate,
        method="generalised_pareto",
        interval=_interval(samples),
        tail_shape=shape,
        tail_scale=scale,
        tail_location=location,
    )


def calibration_sample(pictures: int, most: int, seed: int) -> NDArray[np.int64]:
    """Return the numbers of the pictures that calibrate, ascending: all, or `most` of them, drawn evenly.

    One is drawn from each of `most` stretches of equal length: a step of constant length would always meet the same
    camera, or the same hour of the day, where pictures lie in such an order.
    """
    if pictures <= most:
        return np.arange(pictures, dtype=np.int64)
    edges = np.linspace(0, pictures, most + 1).astype(np.int64)
    return np.random.default_rng(seed).integers(edges[:-1], edges[1:])


def p_value(calibration_scores: NDArray[np.float64], score: float) -> float:
    """Return the conformal p-value of `score`: (1 + #calibration scores >= score) / (n + 1).

    `calibration_scores`: float64 [n], ascending.
    """
    count = len(calibration_scores)
    at_least = count - int(np.searchsorted(calibration_scores, score, side="left"))
    return (1 + at_least) / (count + 1)


def _fit_tail(
    ordered: NDArray[np.float64], tail_size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Fit generalised Pareto tails to rows of ascending scores by probability-weighted moments.

    Hosking and Wallis 1987: for a few dozen exceedances less variable than maximum likelihood, and in closed form.
    Returns location, scale and shape (scipy's sign), each float64 [rows].
    """
    location = ordered[:, -tail_size - 1]
    excess = ordered[:, -tail_size:] - location[:, None]
    mean = excess.mean(axis=1)
    weights = (tail_size - np.arange(1, tail_size + 1) + 0.35) / tail_size
    weighted = (excess * weights).mean(axis=1)
    spread = np.maximum(mean - 2 * weighted, 1e-12)
    # A shape of 1/2 or more has no variance: scores of good parts that looked so heavy would be no calibration at all.
    shape = np.clip(2 - mean / spread, -0.5, 0.5)
    # The clipped shape keeps the mean: mean = scale / (1 - shape).
    scale = np.maximum(mean * (1 - shape), 1e-12)
    return location, scale, shape


def _tail_quantile(
    location: NDArray[np.float64] | float,
    scale: NDArray[np.float64] | float,
    shape: NDArray[np.float64] | float,
    exceedance: float,
) -> NDArray[np.float64]:
    """Return what is exceeded with probability `exceedance`, 0 to 1, also as `shape` goes to 0."""
    # As scipy.stats.genpareto.isf does it, without a module that takes half a second of every start to load.
    return np.asarray(location - scale * boxcox(exceedance, -np.asarray(shape)), dtype=np.float64)


def _next_above(score: float) -> float:
    """Return the next number above in float32, which maps are of: the next float64 would be the same to them."""
    return float(np.nextafter(np.float32(score), np.float32(np.inf)))


def _interval(samples: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)
