import numpy as np
import pytest
from scipy.spatial.distance import cdist

from patchcore_engine.coreset import greedy_k_centre
from patchcore_engine.merged_coreset import CoresetPlan, MergedCoreset
from tests.engine.test_index_and_coreset import clustered_points, covering_radius


def merged(points: np.ndarray, count: int, chunk: int, multiple: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return positions of the candidates and of the selected among all points, and the chunks' covering radius."""
    coreset = MergedCoreset(count / len(points), multiple, seed=3)
    candidates, radius = [], 0.0
    for start in range(0, len(points), chunk):
        part = points[start : start + chunk]
        chosen = coreset.put_forward(part)
        radius = max(radius, covering_radius(part, chosen))
        candidates.append(start + chosen)
    positions = np.concatenate(candidates)
    return positions, positions[coreset.select(count, lambda _count: None)], radius


@pytest.mark.parametrize("multiple", [2, 4])
def test_a_merged_coreset_covers_all_points_within_the_bound_it_states(multiple: int) -> None:
    points = clustered_points(8000, 32, 7)
    candidates, selected, chunks_radius = merged(points, 80, 1000, multiple)
    assert len(set(selected.tolist())) == 80
    assert np.isin(selected, candidates).all()
    optimum_at_most = covering_radius(points, greedy_k_centre(points, 80, 3))
    assert covering_radius(points, selected) <= 2 * optimum_at_most + chunks_radius
    of_candidates = float(cdist(points[candidates], points[selected]).min(axis=1).max())
    assert covering_radius(points, selected) <= of_candidates + chunks_radius + 1e-4


def test_a_merged_coreset_covers_nearly_as_closely_as_one_pass() -> None:
    points = clustered_points(8000, 32, 7)
    _, selected, _ = merged(points, 80, 1000, 2)
    one_pass = greedy_k_centre(points, 80, 3)
    assert covering_radius(points, selected) < 1.3 * covering_radius(points, one_pass)
    distances = [cdist(points, points[chosen]).min(axis=1).mean() for chosen in (selected, one_pass)]
    assert distances[0] < 1.05 * distances[1]


def test_an_outlier_in_a_late_chunk_is_selected() -> None:
    points = clustered_points(4000, 16, 0)
    points[3999] += 1000
    _, selected, _ = merged(points, 40, 500, 2)
    assert 3999 in selected


def test_the_plan_looks_at_counts_and_leaves_small_fits_in_one_pass() -> None:
    plan = CoresetPlan()
    assert plan.chunk_pictures(200, 784, 0.01) is None
    assert plan.chunk_pictures(209, 2304, 0.01) is None
    assert plan.chunk_pictures(5000, 784, 0.01) == 63
    # A picture of more patches than a chunk is a chunk.
    assert plan.chunk_pictures(100, 60_000, 0.01) == 1


def test_chunks_that_would_keep_all_their_patches_are_not_made() -> None:
    assert CoresetPlan().chunk_pictures(5000, 784, 0.5) is None
