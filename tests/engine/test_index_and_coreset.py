import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from patchcore_engine.coreset import RandomProjection, coreset_size, greedy_k_centre, plain_greedy_k_centre
from patchcore_engine.errors import BankDamagedError
from patchcore_engine.index import NearestNeighbours


def clustered_points(count: int, dimension: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    basis = rng.standard_normal((12, dimension))
    points = rng.standard_normal((count, 12)) @ basis + 0.05 * rng.standard_normal((count, dimension))
    return points.astype(np.float32)


def covering_radius(points: np.ndarray, centres: np.ndarray) -> float:
    return float(cdist(points, points[centres]).min(axis=1).max())


def test_distances_are_true_l2_and_exact() -> None:
    vectors, queries = clustered_points(500, 24, 0), clustered_points(40, 24, 1)
    distances, positions = NearestNeighbours(vectors).search(queries, 3)
    expected = np.sort(cdist(queries, vectors), axis=1)[:, :3]
    np.testing.assert_allclose(distances, expected, rtol=1e-4)
    np.testing.assert_allclose(cdist(queries, vectors)[np.arange(40), positions[:, 0]], expected[:, 0], rtol=1e-5)


def test_a_query_with_nan_has_no_distance() -> None:
    queries = clustered_points(2, 24, 1)
    queries[0, 0] = np.nan
    distances, _ = NearestNeighbours(clustered_points(50, 24, 0)).search(queries, 1)
    assert np.isnan(distances[0, 0])
    assert np.isfinite(distances[1, 0])


def test_an_index_survives_serialisation_and_shows_its_vectors() -> None:
    vectors = clustered_points(60, 8, 0)
    index = NearestNeighbours.deserialize(NearestNeighbours(vectors).serialize())
    np.testing.assert_array_equal(index.vectors, vectors)


def test_bytes_that_are_no_index_are_refused() -> None:
    with pytest.raises(BankDamagedError):
        NearestNeighbours.deserialize(np.frombuffer(b"IxXX" + bytes(60), dtype=np.uint8))


@pytest.mark.parametrize(("count", "ratio"), [(6000, 0.01), (6000, 0.1), (3000, 0.5), (40_000, 0.02)])
def test_lazy_rounds_select_the_sequence_of_the_plain_loop(count: int, ratio: float) -> None:
    points = clustered_points(count, 32, 7)
    kept = coreset_size(count, ratio)
    lazy, plain = greedy_k_centre(points, kept, 3), plain_greedy_k_centre(points, kept, 3)
    assert len(set(lazy.tolist())) == kept
    # Two distances that differ in their last bit may swap; the cover they give is the same.
    assert np.mean(lazy == plain) > 0.98
    assert covering_radius(points, lazy) == pytest.approx(covering_radius(points, plain), rel=1e-3)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 400), st.floats(0.01, 1), st.integers(0, 10), st.integers(1, 4))
def test_every_selection_is_of_distinct_points_even_among_equals(
    count: int, ratio: float, seed: int, values: int
) -> None:
    points = np.random.default_rng(seed).integers(0, values, (count, 2)).astype(np.float32)
    kept = coreset_size(count, ratio)
    selected = greedy_k_centre(points, kept, seed)
    assert len(set(selected.tolist())) == kept
    distinct = len(np.unique(points, axis=0))
    assert len(np.unique(points[selected], axis=0)) == min(kept, distinct)


def test_as_many_equal_points_as_a_pool_holds_are_got_over() -> None:
    points = np.concatenate([np.zeros((20_000, 4)), np.eye(4)]).astype(np.float32)
    selected = greedy_k_centre(points, 200, 0)
    assert len(set(selected.tolist())) == 200
    assert {20_000, 20_001, 20_002, 20_003} <= set(selected.tolist())


def test_progress_adds_up_to_the_number_of_vectors() -> None:
    steps: list[int] = []
    greedy_k_centre(clustered_points(3000, 16, 0), 300, 0, steps.append)
    assert sum(steps) == 300


def test_the_projection_nearly_keeps_distances_and_its_seed_decides_it() -> None:
    patches = clustered_points(200, 1536, 0)
    projected = RandomProjection(1536, seed=1)(patches)
    assert projected.shape == (200, 128)
    ratio = cdist(projected[:100], projected[100:]) / cdist(patches[:100], patches[100:])
    assert 0.5 < ratio.min() < 1 < ratio.max() < 1.5
    np.testing.assert_array_equal(projected, RandomProjection(1536, seed=1)(patches))


def test_short_vectors_are_not_projected() -> None:
    patches = clustered_points(20, 152, 0)
    assert RandomProjection(152, seed=1)(patches) is patches
