"""The figures against scikit-learn, scipy, and a slow plain reading of the MVTec AD evaluation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import binomtest
from sklearn.metrics import f1_score, roc_auc_score

from patchcore_engine.metrics import PixelScores, auroc, f1_max, rate, roc_curve

scores = st.lists(st.integers(0, 12), min_size=1, max_size=30).map(lambda v: np.array(v, np.float32))


@settings(max_examples=50, deadline=None)
@given(scores, scores)
def test_auroc_is_scikit_learns_also_with_ties(good: NDArray[np.float32], defective: NDArray[np.float32]) -> None:
    labels = np.r_[np.zeros(len(good)), np.ones(len(defective))]
    assert auroc(good, defective) == pytest.approx(roc_auc_score(labels, np.r_[good, defective]), abs=1e-12)
    curve = roc_curve(good, defective)
    assert np.trapezoid(curve.y, curve.x) == pytest.approx(auroc(good, defective), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(scores, scores)
def test_f1_max_is_the_best_f1_of_any_threshold(good: NDArray[np.float32], defective: NDArray[np.float32]) -> None:
    labels = np.r_[np.zeros(len(good), int), np.ones(len(defective), int)]
    values = np.r_[good, defective]
    found = f1_max(good, defective)
    assert found is not None
    best, threshold = found
    assert best == pytest.approx(max(f1_score(labels, values >= t) for t in np.unique(values)))
    assert f1_score(labels, values >= threshold) == pytest.approx(best)


def test_figures_that_need_both_kinds_of_pictures_are_none_without_them() -> None:
    some, none = np.array([1.0, 2.0]), np.empty(0)
    assert auroc(some, none) is None
    assert auroc(none, some) is None
    assert f1_max(some, none) is None


@pytest.mark.parametrize(("count", "total"), [(0, 20), (1, 20), (7, 20), (20, 20), (3, 63)])
def test_a_rates_interval_is_scipys_exact_one(count: int, total: int) -> None:
    expected = binomtest(count, total).proportion_ci(0.95, method="exact")
    found = rate(count, total)
    assert found.value == pytest.approx(count / total)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_a_rate_of_nothing_says_nothing() -> None:
    found = rate(0, 0)
    assert found.value is None
    assert (found.low, found.high) == (0.0, 1.0)


def test_pixel_auroc_is_scikit_learns() -> None:
    maps, masks = make_maps(0, levels=40)
    labels = np.concatenate([m.ravel() for m in masks])
    expected = roc_auc_score(labels, np.concatenate([m.ravel() for m in maps]))
    assert gather(maps, masks).figures().auroc == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("levels", [6, 300, None])
@pytest.mark.parametrize("limit", [0.3, 0.05, 1.0])
def test_per_region_overlap_is_that_of_the_plain_reading(seed: int, levels: int | None, limit: float) -> None:
    maps, masks = make_maps(seed, levels=levels)
    expected = plain_per_region_overlap(maps, masks, limit)
    assert gather(maps, masks).figures(limit=limit).aupro == pytest.approx(expected, abs=1e-6)


def test_perfect_maps_have_full_overlap_and_constant_maps_half_of_the_limit() -> None:
    _, masks = make_maps(3, levels=5)
    perfect = gather([m.astype(np.float32) for m in masks], masks).figures()
    assert perfect.auroc == pytest.approx(1)
    assert perfect.aupro == pytest.approx(1)
    constant = gather([np.ones(m.shape, np.float32) for m in masks], masks).figures()
    assert constant.auroc == pytest.approx(0.5)
    assert constant.aupro == pytest.approx(0.15)


def test_curves_run_upwards_and_their_areas_are_the_figures() -> None:
    maps, masks = make_maps(1, levels=None)
    figures = gather(maps, masks).figures(points=2001)
    assert figures.roc is not None
    assert figures.pro is not None
    for curve, area, limit in ((figures.roc, figures.auroc, 1.0), (figures.pro, figures.aupro, 0.3)):
        assert (np.diff(curve.x) >= 0).all()
        assert (np.diff(curve.y) >= 0).all()
        assert curve.x[-1] == pytest.approx(limit, abs=1e-3)
        assert np.trapezoid(curve.y, curve.x) / limit == pytest.approx(area, abs=2e-3)


def test_a_set_without_defects_has_no_pixel_figures() -> None:
    figures = gather([np.ones((8, 8), np.float32)], [np.zeros((8, 8), bool)]).figures()
    assert (figures.auroc, figures.aupro, figures.roc, figures.pro) == (None, None, None, None)


def gather(maps: list[NDArray[np.float32]], masks: list[NDArray[np.bool_]]) -> PixelScores:
    pixel_scores = PixelScores()
    for anomaly_map, mask in zip(maps, masks, strict=True):
        pixel_scores.add(anomaly_map, mask)
    return pixel_scores


def make_maps(seed: int, *, levels: int | None) -> tuple[list[NDArray[np.float32]], list[NDArray[np.bool_]]]:
    """Draw noisy maps over ragged regions that touch at corners; few `levels` make many ties."""
    random = np.random.default_rng(seed)
    maps, masks = [], []
    for picture in range(6):
        mask = ndimage.gaussian_filter(random.standard_normal((24, 30)), 1.5) > (0.25 if picture else 9)
        values = ndimage.gaussian_filter(random.standard_normal((24, 30)) + 1.2 * mask, 1)
        if levels is not None:
            values = np.round((values - values.min()) * levels / 4)
        maps.append(values.astype(np.float32))
        masks.append(mask)
    return maps, masks


def plain_per_region_overlap(maps: list[NDArray[np.float32]], masks: list[NDArray[np.bool_]], limit: float) -> float:
    """Follow the definition threshold by threshold, with the curve cut at `limit` by linear interpolation."""
    labelled = [ndimage.label(mask, structure=np.ones((3, 3), int)) for mask in masks]
    good_pixels = sum(int((~mask).sum()) for mask in masks)
    x, y = [0.0], [0.0]
    for threshold in np.unique(np.stack(maps))[::-1]:
        overlaps = [
            (anomaly_map[labels == region] >= threshold).mean()
            for anomaly_map, (labels, count) in zip(maps, labelled, strict=True)
            for region in range(1, count + 1)
        ]
        wrong = sum(int((m[~mask] >= threshold).sum()) for m, mask in zip(maps, masks, strict=True))
        x.append(wrong / good_pixels)
        y.append(float(np.mean(overlaps)))
    inside = np.array(x) <= limit
    xs = np.append(np.array(x)[inside], limit)
    ys = np.append(np.array(y)[inside], np.interp(limit, x, y))
    return float(np.trapezoid(ys, xs) / limit)
