import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from patchcore_engine.certified import CertifiedSearch, SearchWork
from patchcore_engine.index_choice import choose_index
from patchcore_engine.nearest import ROUNDING, FlatSearch
from patchcore_engine.projection import Projection, principal_projection


def vectors_of_a_few_causes(count: int, dimension: int, seed: int) -> NDArray[np.float32]:
    """Vectors as backbones make them: most of their spread in a few directions, and far from the origin."""
    rng = np.random.default_rng(seed)
    basis = np.random.default_rng(0).standard_normal((10, dimension))
    points = 5 + rng.standard_normal((count, 10)) @ basis + 0.3 * rng.standard_normal((count, dimension))
    return points.astype(np.float32)


def check_exact(
    found: tuple[NDArray[np.float32], NDArray[np.int64]], queries: NDArray[np.float32], bank: NDArray[np.float32]
) -> None:
    squared, positions = found
    truth = cdist(queries.astype(np.float64), bank.astype(np.float64), "sqeuclidean")
    np.testing.assert_allclose(squared, truth.min(axis=1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(truth[np.arange(len(queries)), positions], truth.min(axis=1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("size", "dimension", "kept"), [(1, 8, 2), (50, 64, 8), (1600, 256, 32), (9000, 96, 16)])
def test_both_searches_find_the_true_nearest(size: int, dimension: int, kept: int) -> None:
    bank, queries = vectors_of_a_few_causes(size, dimension, 1), vectors_of_a_few_causes(700, dimension, 2)
    check_exact(FlatSearch(bank).nearest(queries), queries, bank)
    check_exact(CertifiedSearch(bank, principal_projection(bank, kept)).nearest(queries), queries, bank)


def test_queries_far_from_everything_are_found_as_exactly() -> None:
    bank = vectors_of_a_few_causes(3000, 128, 1)
    outliers = vectors_of_a_few_causes(60, 128, 2) + 40 * np.random.default_rng(3).standard_normal((60, 128))
    queries = np.concatenate([outliers.astype(np.float32), bank[:20] * 100])
    check_exact(CertifiedSearch(bank, principal_projection(bank, 16)).nearest(queries), queries, bank)


def test_clusters_that_bounds_leave_nearly_whole_are_searched_by_products_in_full() -> None:
    shapeless = np.random.default_rng(0).standard_normal((1500, 64)).astype(np.float32)
    bank, queries = shapeless[:1000], shapeless[1000:]
    work = SearchWork()
    check_exact(CertifiedSearch(bank, principal_projection(bank, 4)).nearest(queries, work), queries, bank)
    assert work.multiplied > 500 * 1000 / 2


def test_more_queries_and_vectors_than_a_block_and_a_cluster_hold_are_found_as_exactly() -> None:
    rng = np.random.default_rng(0)
    clump = 0.1 * rng.standard_normal((2500, 24)).astype(np.float32)
    bank = np.concatenate([clump, vectors_of_a_few_causes(500, 24, 1)])
    queries = vectors_of_a_few_causes(5000, 24, 2)
    check_exact(CertifiedSearch(bank, principal_projection(bank, 8)).nearest(queries), queries, bank)


def test_pairs_beyond_what_is_kept_are_compared_on_the_way() -> None:
    rng = np.random.default_rng(0)
    bank = rng.standard_normal((4000, 40)).astype(np.float32)
    queries = rng.standard_normal((2000, 40)).astype(np.float32)
    work = SearchWork()
    check_exact(CertifiedSearch(bank, principal_projection(bank, 30)).nearest(queries, work), queries, bank)
    assert work.compared > 2**18


@pytest.mark.parametrize("offset", [0, 30])
def test_the_distances_of_projected_points_are_lower_bounds(offset: float) -> None:
    bank, queries = vectors_of_a_few_causes(300, 64, 1) + offset, vectors_of_a_few_causes(200, 64, 2) + offset
    projection = principal_projection(bank, 12)
    points, asked = projection(bank), projection(queries)
    true = cdist(queries.astype(np.float64), bank.astype(np.float64), "sqeuclidean")
    bounds = cdist(asked.z.astype(np.float64), points.z.astype(np.float64), "sqeuclidean")
    excess = bounds - true
    for column in range(len(bank)):
        slack = asked.slack(points, true[:, column].astype(np.float32))
        assert (excess[:, column] <= slack).all()
    assert np.median(bounds / true) > 0.5, "bounds that prove nothing"
    assert np.median(points.blur) < 100 * ROUNDING**0.5 * np.abs(bank).max()


def test_vectors_that_the_projection_holds_whole_are_found_exactly_in_spite_of_rounding() -> None:
    rng = np.random.default_rng(0)
    plane = np.linalg.qr(rng.standard_normal((64, 6)))[0]
    bank, queries = ((300 + rng.standard_normal((n, 6)) @ plane.T).astype(np.float32) for n in (2000, 300))
    # So far from the origin a product alone is off by more than the distances of neighbours.
    check_exact(CertifiedSearch(bank, principal_projection(bank, 6)).nearest(queries), queries, bank)
    check_exact(FlatSearch(bank).nearest(queries), queries, bank)


def test_a_query_with_nan_has_no_distance_and_disturbs_no_other() -> None:
    bank, queries = vectors_of_a_few_causes(1000, 64, 1), vectors_of_a_few_causes(40, 64, 2)
    search = CertifiedSearch(bank, principal_projection(bank, 16))
    expected = search.nearest(queries)
    queries[7, 3] = np.nan
    squared, positions = search.nearest(queries)
    assert np.isnan(squared[7])
    others = np.arange(40) != 7
    np.testing.assert_array_equal(positions[others], expected[1][others])
    np.testing.assert_allclose(squared[others], expected[0][others], rtol=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.integers(2, 40), st.integers(0, 5), st.floats(0, 1000))
def test_a_useless_projection_costs_time_and_never_a_wrong_answer(
    size: int, dimension: int, seed: int, offset: float
) -> None:
    rng = np.random.default_rng(seed)
    bank = (rng.standard_normal((size, dimension)) + offset).astype(np.float32)
    queries = (rng.standard_normal((20, dimension)) + offset).astype(np.float32)
    basis = np.linalg.qr(rng.standard_normal((dimension, 1)))[0].astype(np.float32)
    search = CertifiedSearch(bank, Projection(np.zeros(dimension, dtype=np.float32), basis))
    squared, positions = search.nearest(queries)
    truth = cdist(queries.astype(np.float64), bank.astype(np.float64), "sqeuclidean")
    rounding = 1e-5 * offset**2 * dimension**0.5
    np.testing.assert_allclose(truth[np.arange(20), positions], truth.min(axis=1), rtol=1e-4, atol=1e-6 + rounding)
    np.testing.assert_allclose(squared, truth[np.arange(20), positions], rtol=1e-3, atol=1e-3)


def test_a_vector_of_the_bank_is_its_own_nearest_at_distance_zero() -> None:
    bank = vectors_of_a_few_causes(500, 64, 1)
    squared, positions = CertifiedSearch(bank, principal_projection(bank, 16)).nearest(bank[100:200])
    np.testing.assert_array_equal(positions, np.arange(100, 200))
    assert (squared == 0).all()


def test_most_of_a_bank_is_proved_too_far_without_a_look_at_it() -> None:
    places = 20 * np.random.default_rng(0).standard_normal((10, 128)).astype(np.float32)
    bank = np.concatenate([place + vectors_of_a_few_causes(100, 128, 1) for place in places])
    queries = np.concatenate([place + vectors_of_a_few_causes(20, 128, 2) for place in places])
    work = SearchWork()
    check_exact(CertifiedSearch(bank, principal_projection(bank, 32)).nearest(queries, work), queries, bank)
    assert 200 <= work.compared < 10 * 200
    assert work.bounded < 0.5 * 200 * 1000


def test_several_threads_may_search_one_bank() -> None:
    bank = vectors_of_a_few_causes(3000, 64, 1)
    search = CertifiedSearch(bank, principal_projection(bank, 16))
    batches = [vectors_of_a_few_causes(400, 64, seed) for seed in range(2, 8)]
    alone = [search.nearest(batch)[1] for batch in batches]
    together: dict[int, NDArray[np.int64]] = {}
    threads = [
        threading.Thread(target=lambda n=n: together.update({n: search.nearest(batches[n])[1]})) for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, positions in enumerate(alone):
        np.testing.assert_array_equal(together[number], positions)


def test_auto_takes_bounds_where_they_save_work_and_the_plain_product_where_not() -> None:
    bank, queries = vectors_of_a_few_causes(2000, 512, 1), vectors_of_a_few_causes(300, 512, 2)
    chosen = choose_index(bank, queries, "auto")
    assert chosen.index.kind == "pca"
    assert chosen.visited is not None
    assert 0 < chosen.visited < 1
    shapeless = np.random.default_rng(0).standard_normal((2100, 512)).astype(np.float32)
    assert choose_index(shapeless[:2000], shapeless[2000:], "auto").index.kind == "flat"
    assert choose_index(bank[:20], queries, "auto").index.kind == "flat"


def test_the_choice_goes_by_what_strangers_patches_cost() -> None:
    bank = vectors_of_a_few_causes(1000, 64, 1)
    own = np.arange(1000) < 100
    blind = choose_index(bank, bank[:100], "pca")
    chosen = choose_index(bank, bank[:100], "pca", ~own)
    assert blind.compared is not None
    assert chosen.compared is not None
    assert chosen.compared > blind.compared
    assert len(chosen.index) == 1000


@pytest.mark.parametrize("choice", ["flat", "pca"])
def test_a_kind_that_is_asked_for_is_taken(choice: str) -> None:
    bank = vectors_of_a_few_causes(200, 20, 1)
    assert choose_index(bank, bank, choice).index.kind == choice  # type: ignore[arg-type]


def test_the_choice_is_the_same_every_time() -> None:
    bank, queries = vectors_of_a_few_causes(2000, 512, 1), vectors_of_a_few_causes(300, 512, 2)
    first, second = choose_index(bank, queries, "auto"), choose_index(bank, queries, "auto")
    assert first.index.projection is not None
    assert second.index.projection is not None
    np.testing.assert_array_equal(first.index.projection.basis, second.index.projection.basis)
    assert (first.visited, first.compared) == (second.visited, second.compared)
