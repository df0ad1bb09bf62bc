import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import genpareto

from patchcore_engine.calibration import MINIMUM_PICTURES, p_value, threshold_at
from patchcore_engine.errors import CalibrationError

scores_of_good_parts = st.lists(st.floats(0.1, 50), min_size=MINIMUM_PICTURES, max_size=300).map(np.array)


def test_enough_good_parts_support_the_rate_by_themselves() -> None:
    threshold = threshold_at(np.arange(1.0, 201.0), 0.01, seed=0)
    assert threshold.method == "empirical"
    # ceil(201 * 0.99) = 199
    assert threshold.value == 199


def test_the_empirical_threshold_keeps_its_rate_on_unseen_parts() -> None:
    rng = np.random.default_rng(5)
    rejected = [
        np.mean(rng.gamma(9, 1, 500) >= threshold_at(rng.gamma(9, 1, 200), 0.05, seed=0).value) for _ in range(200)
    ]
    assert 0.04 < np.mean(rejected) <= 0.055


def test_a_rate_beyond_the_data_is_extrapolated_and_says_so() -> None:
    threshold = threshold_at(np.random.default_rng(1).gamma(9, 1, 200), 0.001, seed=0)
    assert threshold.method == "generalised_pareto"
    assert threshold.tail_shape is not None
    assert threshold.interval[0] < threshold.value < threshold.interval[1]


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.2])
def test_the_tail_fit_finds_the_quantile_of_a_known_tail(shape: float) -> None:
    rng = np.random.default_rng(2)
    true_value = genpareto.isf(0.001, shape)
    values = [threshold_at(genpareto.rvs(shape, size=400, random_state=rng), 0.001, seed=0).value for _ in range(60)]
    assert np.median(values) == pytest.approx(true_value, rel=0.12)


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.2])
def test_the_extrapolated_threshold_is_the_quantile_of_the_tail_that_is_stated(shape: float) -> None:
    scores = genpareto.rvs(shape, size=200, random_state=np.random.default_rng(1))
    threshold = threshold_at(scores, 0.001, seed=0)
    assert threshold.tail_shape is not None
    assert threshold.tail_location is not None
    assert threshold.tail_scale is not None
    # The tail holds the largest fifth of the scores.
    quantile = genpareto.isf(0.001 / 0.2, threshold.tail_shape, threshold.tail_location, threshold.tail_scale)
    assert threshold.value == pytest.approx(quantile, rel=1e-12)


@given(scores_of_good_parts, st.floats(0.0005, 0.3))
def test_an_extrapolated_threshold_is_never_below_the_worst_good_part(scores: np.ndarray, rate: float) -> None:
    threshold = threshold_at(scores, rate, seed=0)
    assert np.isfinite(threshold.value)
    assert threshold.value >= (scores.max() if threshold.method == "generalised_pareto" else scores.min())


@given(scores_of_good_parts)
def test_thresholds_grow_as_the_rate_shrinks(scores: np.ndarray) -> None:
    loose, strict = threshold_at(scores, 0.01, seed=0), threshold_at(scores, 0.001, seed=0)
    if loose.method == strict.method:
        assert strict.value >= loose.value


@given(scores_of_good_parts, st.floats(0, 60))
def test_the_p_value_counts_good_parts_at_least_as_bad(scores: np.ndarray, score: float) -> None:
    assert p_value(np.sort(scores), score) == (1 + sum(scores >= score)) / (len(scores) + 1)


def test_too_few_good_parts_say_how_many_are_needed() -> None:
    with pytest.raises(CalibrationError, match=f"9 good picture.*at least {MINIMUM_PICTURES}"):
        threshold_at(np.ones(9), 0.01, seed=0)


def test_a_score_that_is_no_number_is_refused() -> None:
    scores = np.ones(20)
    scores[3] = np.nan
    with pytest.raises(CalibrationError, match="no number"):
        threshold_at(scores, 0.01, seed=0)


def test_the_same_seed_gives_the_same_interval() -> None:
    scores = np.random.default_rng(1).gamma(9, 1, 50)
    assert threshold_at(scores, 0.01, seed=4) == threshold_at(scores, 0.01, seed=4)
