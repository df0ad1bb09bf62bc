import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from patchcore_engine.index import NearestNeighbours
from patchcore_engine.several_nearest import SeveralNearest, neighbours_of_each


def alike(count: int, dimension: int, seed: int, *, common: float = 30.0, spread: float = 0.01) -> NDArray[np.float32]:
    """Vectors of which nearly all is the same in all."""
    common_part = common * np.random.default_rng(0).standard_normal(dimension)
    return (common_part + spread * np.random.default_rng(seed).standard_normal((count, dimension))).astype(np.float32)


def check(found: tuple[NDArray[np.float32], NDArray[np.int64]], truth: NDArray[np.float64], count: int) -> None:
    """`truth`: distances float64 [q, n], infinite where a vector doesn't count."""
    squared, positions = found
    expected = np.sort(truth, axis=1)[:, :count]
    np.testing.assert_allclose(np.sqrt(squared), expected, rtol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(truth, positions, axis=1), expected, rtol=1e-5)
    assert (np.diff(squared, axis=1) >= 0).all()


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize(("size", "dimension", "count"), [(9, 8, 9), (700, 64, 1), (5000, 96, 9), (3000, 1536, 9)])
def test_the_nearest_of_vectors_that_are_all_alike_are_those_of_float64(
    size: int, dimension: int, count: int, centred: bool
) -> None:
    bank, queries = alike(size, dimension, 1), alike(60, dimension, 2)
    truth = cdist(queries.astype(np.float64), bank.astype(np.float64))
    check(SeveralNearest(bank, centred=centred).nearest(queries, count), truth, count)


def test_more_queries_than_a_block_holds_are_found_as_exactly() -> None:
    bank, queries = alike(9000, 16, 1), alike(1500, 16, 2)
    truth = cdist(queries.astype(np.float64), bank.astype(np.float64))
    check(SeveralNearest(bank, centred=True).nearest(queries, 5), truth, 5)


@given(st.integers(1, 300), st.integers(1, 12), st.floats(0, 1000), st.integers(0, 100))
def test_what_is_left_out_is_found_for_no_query(size: int, count: int, common: float, seed: int) -> None:
    count = min(count, size)
    bank, queries = alike(size, 12, seed, common=common), alike(7, 12, seed + 1, common=common)
    left_out = np.random.default_rng(seed).random((7, size)) < 0.5
    squared, positions = SeveralNearest(bank, centred=True).nearest(queries, count, left_out)
    truth = cdist(queries.astype(np.float64), bank.astype(np.float64))
    truth[left_out] = np.inf
    expected = np.sort(truth, axis=1)[:, :count]
    np.testing.assert_array_equal(positions < 0, np.isinf(expected))
    np.testing.assert_array_equal(np.isnan(squared), np.isinf(expected))
    found = positions >= 0
    np.testing.assert_allclose(np.sqrt(squared[found]), expected[found], rtol=1e-4, atol=1e-7)


def test_of_equal_vectors_the_first_are_found() -> None:
    bank = np.repeat(alike(3, 8, 1), 40, axis=0)
    squared, positions = SeveralNearest(bank, centred=True).nearest(bank[[45]], 4)
    assert squared.tolist() == [[0, 0, 0, 0]]
    assert positions.tolist() == [[40, 41, 42, 43]]


def test_a_query_with_nan_has_no_neighbours_and_leaves_the_others_theirs() -> None:
    bank, queries = alike(50, 8, 1), alike(3, 8, 2)
    queries[1, 3] = np.nan
    squared, positions = SeveralNearest(bank, centred=True).nearest(queries, 2)
    assert np.isnan(squared).tolist() == [[False] * 2, [True] * 2, [False] * 2]
    assert positions[1].tolist() == [-1, -1]


@pytest.mark.parametrize("kind", ["flat", "pca"])
def test_a_bank_of_vectors_that_are_all_alike_finds_several_exactly(kind: str) -> None:
    bank, queries = alike(3000, 64, 1), alike(40, 64, 2)
    distances, positions = NearestNeighbours(bank, kind).search(queries, 9)  # type: ignore[arg-type]
    truth = cdist(queries.astype(np.float64), bank.astype(np.float64))
    check((distances**2, positions), truth, 9)


def test_the_neighbours_of_each_vector_begin_with_itself_and_are_those_of_float64() -> None:
    bank = alike(800, 64, 1)
    neighbours = neighbours_of_each(bank, 9)
    assert neighbours.dtype == np.int32
    np.testing.assert_array_equal(neighbours[:, 0], np.arange(800))
    truth = cdist(bank.astype(np.float64), bank.astype(np.float64))
    np.testing.assert_allclose(np.take_along_axis(truth, neighbours, axis=1), np.sort(truth, axis=1)[:, :9], rtol=1e-5)


def test_a_vector_among_more_equal_ones_than_are_asked_for_has_itself_first() -> None:
    neighbours = neighbours_of_each(np.repeat(alike(2, 8, 1), 6, axis=0), 3)
    np.testing.assert_array_equal(neighbours[:, 0], np.arange(12))
    assert (neighbours[:6] < 6).all()
    assert (neighbours[6:] >= 6).all()
