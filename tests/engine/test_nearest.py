import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from patchcore_engine.index_choice import choose_index
from patchcore_engine.nearest import CertifiedSearch, FlatSearch, Projection, principal_projection


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
    search = CertifiedSearch(bank, principal_projection(bank, 16))
    check_exact(search.nearest(queries), queries, bank)
    assert (search.candidates(queries) > 48).any(), "these queries were to need the full product"


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


def test_most_queries_are_proved_after_a_few_candidates() -> None:
    bank, queries = vectors_of_a_few_causes(2000, 256, 1), vectors_of_a_few_causes(500, 256, 2)
    candidates = CertifiedSearch(bank, principal_projection(bank, 64)).candidates(queries)
    assert (candidates >= 1).all()
    assert candidates.mean() < 3


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
    assert chosen.proved == 1
    shapeless = np.random.default_rng(0).standard_normal((2100, 512)).astype(np.float32)
    assert choose_index(shapeless[:2000], shapeless[2000:], "auto").index.kind == "flat"
    assert choose_index(bank[:20], queries, "auto").index.kind == "flat"


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
    assert (first.proved, first.candidates) == (second.proved, second.candidates)
