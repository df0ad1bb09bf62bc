"""Greedy k-centre selection (PatchCore, algorithm 1) in a random projection of the patches."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.random_projection import SparseRandomProjection

from patchcore_engine.progress import Advance

PROJECTED_DIMENSION: Final = 128
# Below this, projecting to 128 dimensions saves less than it costs.
_LARGEST_UNPROJECTED: Final = 192
_SMALLEST_ROUND: Final = 1024
_LARGEST_ROUND: Final = 4096


class RandomProjection:
    """A seeded sparse random projection (Li, Hastie and Church 2006) that nearly keeps distances.

    Vectors of up to 192 dimensions pass unchanged.
    """

    def __init__(self, dimension: int, seed: int) -> None:
        self.output_dimension = dimension if dimension <= _LARGEST_UNPROJECTED else PROJECTED_DIMENSION
        self._matrix: csr_matrix | None = None
        if self.output_dimension != dimension:
            projection = SparseRandomProjection(n_components=PROJECTED_DIMENSION, random_state=seed)
            projection.fit(np.empty((1, dimension), dtype=np.float32))
            self._matrix = csr_matrix(projection.components_.T, dtype=np.float32)

    def __call__(self, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        """Project patches float32 [n, d] to float32 [n, output_dimension]."""
        return patches if self._matrix is None else np.asarray(patches @ self._matrix, dtype=np.float32)


def coreset_size(patches: int, ratio: float) -> int:
    """How many of `patches` a ratio keeps: rounded down, at least one."""
    return max(1, int(patches * ratio))


def greedy_k_centre(
    points: NDArray[np.float32], count: int, seed: int, advance: Advance = lambda _count: None
) -> NDArray[np.int64]:
    """Select `count` rows of `points`, float32 [n, d], farthest first; return their positions in order of selection.

    The sequence is that of the plain loop, `plain_greedy_k_centre`, for a fraction of its work: the distance to the
    nearest centre only shrinks as centres are added, so an outdated one is an upper bound. Each round brings the
    largest bounds up to date in a few matrix products, and picks among them while their maximum is above every
    bound outside.
    """
    total = len(points)
    if count >= total:
        advance(total)
        return np.arange(total, dtype=np.int64)
    norms = np.einsum("nd,nd->n", points, points)
    centres = np.empty(count, dtype=np.int64)
    centres[0] = np.random.default_rng(seed).integers(total)
    bounds = _squared_distances(points, norms, centres[0])
    bounds[centres[0]] = -np.inf
    # How many of the centres each bound has seen.
    seen = np.ones(total, dtype=np.int64)
    chosen, reported = 1, 0
    smallest_round = _SMALLEST_ROUND if count < total // 20 else _LARGEST_ROUND
    round_size = smallest_round
    while chosen < count:
        round_size = min(round_size, total)
        members = np.sort(np.argpartition(bounds, total - round_size)[total - round_size :])
        _bring_up_to_date(points, norms, bounds, seen, members, centres[:chosen])
        current = bounds[members]
        outside = _largest_outside(bounds, members)
        candidates, candidate_norms = points[members], norms[members]
        before = chosen
        while chosen < count:
            best = int(np.argmax(current))
            if not (current[best] > outside or round_size == total):
                break
            centres[chosen] = members[best]
            distances = candidate_norms + (candidate_norms[best] - 2 * (candidates @ candidates[best]))
            np.minimum(current, np.maximum(distances, 0, out=distances), out=current)
            current[best] = -np.inf
            chosen += 1
        bounds[members] = current
        seen[members] = chosen
        # Nothing picked means that as many equal bounds as a round holds lie at its edge: widen it.
        round_size = smallest_round if chosen > before else round_size * 2
        advance(chosen - reported)
        reported = chosen
    return centres


def plain_greedy_k_centre(points: NDArray[np.float32], count: int, seed: int) -> NDArray[np.int64]:
    """Select like `greedy_k_centre`, one full pass over all points a centre: the oracle for tests and benchmarks."""
    total = len(points)
    if count >= total:
        return np.arange(total, dtype=np.int64)
    norms = np.einsum("nd,nd->n", points, points)
    centres = np.empty(count, dtype=np.int64)
    centres[0] = np.random.default_rng(seed).integers(total)
    nearest = np.full(total, np.inf, dtype=np.float32)
    for position in range(count):
        if position:
            centres[position] = np.argmax(nearest)
        np.minimum(nearest, _squared_distances(points, norms, centres[position]), out=nearest)
        nearest[centres[: position + 1]] = -np.inf
    return centres


def _squared_distances(
    points: NDArray[np.float32], norms: NDArray[np.float32], centre: np.int64
) -> NDArray[np.float32]:
    distances: NDArray[np.float32] = norms + (norms[centre] - 2 * (points @ points[centre]))
    return np.maximum(distances, 0, out=distances)


def _largest_outside(bounds: NDArray[np.float32], members: NDArray[np.int64]) -> float:
    if len(members) == len(bounds):
        return -np.inf
    outside = bounds.copy()
    outside[members] = -np.inf
    return float(outside.max())


def _bring_up_to_date(
    points: NDArray[np.float32],
    norms: NDArray[np.float32],
    bounds: NDArray[np.float32],
    seen: NDArray[np.int64],
    members: NDArray[np.int64],
    centres: NDArray[np.int64],
) -> None:
    """Lower the bounds of `members` to their true distance from `centres`, grouped by what they have seen."""
    order = members[np.argsort(seen[members], kind="stable")]
    for group in np.array_split(order, max(1, len(order) // 256)):
        new = centres[seen[group].min() :]
        if not len(new):
            continue
        products = points[group] @ points[new].T
        distances = norms[group] + (norms[new][None, :] - 2 * products).min(axis=1)
        centre_bounds = np.maximum(distances, 0)
        # A centre has no distance to cover; its bound stays at minus infinity.
        bounds[group] = np.minimum(bounds[group], centre_bounds)
        seen[group] = len(centres)
