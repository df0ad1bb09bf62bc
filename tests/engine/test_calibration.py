import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import genpareto

from patchcore_engine.calibration import MINIMUM_PICTURES, _fit_tail, calibration_sample, p_value, threshold_at
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
    with pytest.raises(CalibrationError) as caught:
        threshold_at(np.ones(9), 0.01, seed=0)
    assert str(caught.value) == (
        f"9 good picture(s) are too few to calibrate: at least {MINIMUM_PICTURES} are needed, "
        "50 or more make the thresholds trustworthy."
    )


def test_a_score_that_is_no_number_is_refused() -> None:
    scores = np.ones(20)
    scores[3] = np.nan
    with pytest.raises(CalibrationError) as caught:
        threshold_at(scores, 0.01, seed=0)
    message = "A good picture has a score that is no number: check the weights and the pictures."
    assert str(caught.value) == message


def test_the_same_seed_gives_the_same_interval() -> None:
    scores = np.random.default_rng(1).gamma(9, 1, 50)
    assert threshold_at(scores, 0.01, seed=4) == threshold_at(scores, 0.01, seed=4)


@pytest.mark.parametrize(
    ("count", "rate", "rank"), [(199, 0.01, 198), (19, 0.05, 19), (99, 0.01, 99), (200, 0.01, 199)]
)
def test_the_empirical_threshold_is_the_conformal_quantile(count: int, rate: float, rank: int) -> None:
    threshold = threshold_at(np.arange(1.0, count + 1), rate, seed=0)
    assert (threshold.method, threshold.value, threshold.rate) == ("empirical", rank, rate)


@pytest.mark.parametrize(
    ("scores", "rate"),
    [
        (np.zeros(999), 0.001),
        (np.full(99, 7.3), 0.01),
        (np.append(np.linspace(1, 2, 500), np.full(499, 3.1)), 0.001),
        (np.append(np.full(500, 3.1), np.linspace(4, 5, 499)), 0.5),
        (np.append(np.linspace(1, 2, 95), [2.5, 3.1, 3.1, 3.1]), 0.02),
    ],
    ids=["none differs from the bank", "all alike", "the upper half alike", "the lower half alike", "the worst alike"],
)
def test_of_good_parts_with_equal_scores_no_more_reach_the_empirical_threshold_than_its_rate_allows(
    scores: np.ndarray, rate: float
) -> None:
    threshold = threshold_at(scores, rate, seed=0)
    assert threshold.method == "empirical"
    assert np.sum(scores >= threshold.value) <= rate * (len(scores) + 1)
    # Maps are compared in their own precision.
    assert np.sum(scores.astype(np.float32) >= threshold.value) <= rate * (len(scores) + 1)
    low, high = threshold.interval
    assert low <= threshold.value <= high
    # It is still the score that was chosen, but for the last digit.
    ranked = np.sort(scores)[int(np.ceil((len(scores) + 1) * (1 - rate))) - 1]
    assert threshold.value == pytest.approx(ranked, rel=2e-7)


def test_a_score_that_others_equal_but_no_more_than_the_rate_is_the_threshold_itself() -> None:
    scores = np.append(np.linspace(1, 2, 97), [3.1, 3.1])
    assert threshold_at(scores, 0.02, seed=0).value == 3.1


def test_the_interval_of_an_empirical_threshold_is_that_of_its_rank_in_resamples() -> None:
    scores = np.random.default_rng(2).gamma(9, 1, 120)
    threshold = threshold_at(scores, 0.05, seed=3)
    resamples = np.random.default_rng(3).choice(np.sort(scores), (400, 120))
    ranked = [sorted(resample)[115 - 1] for resample in resamples]  # ceil(121 * 0.95) = 115
    assert threshold.interval == pytest.approx(tuple(np.quantile(ranked, [0.025, 0.975])))


def test_an_extrapolated_threshold_states_the_tail_that_it_is_read_from() -> None:
    scores = np.random.default_rng(1).gamma(9, 1, 200)
    threshold = threshold_at(scores, 0.001, seed=0)
    assert threshold.rate == 0.001
    assert threshold.tail_location is not None
    assert threshold.tail_location == np.sort(scores)[200 - 40 - 1]
    shape, location, scale = threshold.tail_shape, threshold.tail_location, threshold.tail_scale
    assert shape is not None
    assert scale is not None
    assert threshold.value == pytest.approx(genpareto.isf(0.001 * 200 / 40, shape, location, scale))


def test_the_tail_is_fitted_by_the_probability_weighted_moments_of_hosking_and_wallis() -> None:
    scores = np.sort(np.random.default_rng(7).gamma(9, 1, 200))
    threshold = threshold_at(scores, 0.001, seed=0)
    excess = scores[-40:] - scores[-41]
    first = sum(excess) / 40
    second = sum((1 - (rank - 0.35) / 40) * value for rank, value in enumerate(excess, start=1)) / 40
    shape = 2 - first / (first - 2 * second)
    assert threshold.tail_shape == pytest.approx(shape)
    assert threshold.tail_scale == pytest.approx(first * (1 - shape))


def test_an_outlier_among_good_parts_is_the_least_that_an_extrapolated_threshold_may_be() -> None:
    scores = np.append(np.linspace(1, 2, 50), 1000.0)
    assert threshold_at(scores, 0.001, seed=0).value >= 1000
    # One fifth, and no less than 8, of a dozen equal scores and their end have no tail to speak of.
    assert threshold_at(np.append(np.linspace(1, 2, 30), [2.0] * 12), 0.001, seed=0).value >= 2


@pytest.mark.parametrize(
    ("tail", "shape"), [(np.full(40, 5.0), -0.5), (np.append(np.full(39, 1.001), 1e6), 0.5)], ids=["blunt", "heavy"]
)
def test_a_tail_is_neither_blunter_nor_heavier_than_a_variance_allows(tail: np.ndarray, shape: float) -> None:
    threshold = threshold_at(np.append(np.linspace(0.1, 1, 160), tail), 0.001, seed=0)
    assert threshold.tail_shape == shape


def test_the_interval_of_a_large_sample_is_narrow_around_the_true_quantile() -> None:
    scores = np.random.default_rng(4).exponential(size=900)
    threshold = threshold_at(scores, 0.001, seed=0)
    low, high = threshold.interval
    assert low < -np.log(0.001) < high
    assert high - low < 4


def test_resamples_are_fitted_each_by_itself() -> None:
    rows = np.sort(np.random.default_rng(6).gamma(9, 1, (3, 50)), axis=1)
    together = np.array(_fit_tail(rows, 10))
    alone = np.hstack([np.array(_fit_tail(row[None], 10)) for row in rows])
    np.testing.assert_allclose(together, alone)


def test_a_tail_that_is_fitted_to_end_early_brings_no_threshold_below_the_worst_good_part() -> None:
    """A tail that ends may be fitted to end before the largest score."""
    ends_early = 0
    for seed in range(40):
        scores = np.random.default_rng(seed).uniform(0, 1, 40) ** 0.3
        value = threshold_at(scores, 0.02, seed=0).value
        assert value >= scores.max()
        ends_early += value == scores.max()
    assert ends_early > 0


def test_up_to_the_limit_all_pictures_calibrate() -> None:
    np.testing.assert_array_equal(calibration_sample(40, 40, seed=0), np.arange(40))


def test_beyond_the_limit_one_picture_of_each_stretch_calibrates() -> None:
    drawn = calibration_sample(5003, 1000, seed=0)
    assert len(drawn) == 1000
    assert (np.diff(drawn) > 0).all()
    assert np.diff(drawn, prepend=0, append=5003).max() <= 12
    # Pictures of five cameras in turn: each camera has its share.
    assert np.bincount(drawn % 5).min() > 150
    np.testing.assert_array_equal(drawn, calibration_sample(5003, 1000, seed=0))
    assert (drawn != calibration_sample(5003, 1000, seed=1)).any()


def test_any_picture_may_be_drawn() -> None:
    assert {int(n) for seed in range(100) for n in calibration_sample(10, 5, seed)} == set(range(10))
