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
# Bounds that a round looks at, and centres it compares them with at a time, so that the products stay in the cache.
_ROUND_SIZE: Final = 2048
_CENTRE_BLOCK: Final = 256


class RandomProjection:
    """A seeded sparse random projection (Li, Hastie and Church 2006) that nearly keeps distances.

    Vectors of up to 192 dimensions pass unchanged.
    """

    def __init__(self, dimension: int, seed: int) -> None:
        self.output_dimension = dimension if dimension <= _LARGEST_UNPROJECTED else PROJECTED_DIMENSION
        self._matrix: csr_matrix | None = None
        if self.output_dimension != dimension:
            projection = SparseRandomProjection(n_components=PROJECTED_DIMENSION, random_state=seed)
            projection.fit(np.zeros((1, dimension), dtype=np.float32))
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
    largest bounds up to date, and picks among them while their maximum is above every bound outside.
    """
    if count >= len(points):
        advance(len(points))
        return np.arange(len(points), dtype=np.int64)
    selection = _Selection(points, count, seed)
    reported, round_size = 0, _ROUND_SIZE
    while selection.chosen < count:
        advance(selection.chosen - reported)
        reported = selection.chosen
        # Nothing learnt means that as many equal bounds as a round holds lie at its edge: widen it.
        round_size = _ROUND_SIZE if selection.pick_round(min(round_size, len(points))) else 2 * round_size
    advance(count - reported)
    return selection.positions


class _Selection:
    """Centres chosen so far, and for every point an upper bound of its squared distance to the nearest of them."""

    def __init__(self, points: NDArray[np.float32], count: int, seed: int) -> None:
        self._points = points
        self._norms = np.einsum("nd,nd->n", points, points)
        self.positions = np.empty(count, dtype=np.int64)
        self._centres = np.empty((count, points.shape[1]), dtype=np.float32)
        self._centre_norms = np.empty(count, dtype=np.float32)
        self.chosen = 0
        first = int(np.random.default_rng(seed).integers(len(points)))
        self._add(first, points[first], self._norms[first])
        self._bounds = _squared_distances(points, self._norms, first)
        self._bounds[first] = -np.inf
        # How many of the centres each bound has seen.
        self._seen = np.ones(len(points), dtype=np.int64)

    def pick_round(self, size: int) -> bool:
        """Look at the `size` largest bounds and pick what can be picked; False when nothing was learnt."""
        members, outside = self._largest(size)
        candidates, norms = self._points[members], self._norms[members]
        bounds, seen = self._bounds[members], self._seen[members]
        learnt = self._bring_up_to_date(candidates, norms, bounds, seen, outside)
        eligible = np.flatnonzero(bounds > outside)
        before = self.chosen
        if len(eligible):
            bounds[eligible] = self._pick(
                members[eligible], candidates[eligible], norms[eligible], bounds[eligible], outside
            )
            seen[eligible] = self.chosen
        self._bounds[members] = bounds
        self._seen[members] = seen
        return learnt or self.chosen > before

    def _largest(self, size: int) -> tuple[NDArray[np.int64], float]:
        """Return the positions of the `size` largest bounds, ascending, and the largest bound outside them."""
        total = len(self._bounds)
        if size == total:
            return np.arange(total), -np.inf
        order = np.argpartition(self._bounds, total - size - 1)
        return np.sort(order[total - size :]), float(self._bounds[order[total - size - 1]])

    def _bring_up_to_date(
        self,
        candidates: NDArray[np.float32],
        norms: NDArray[np.float32],
        bounds: NDArray[np.float32],
        seen: NDArray[np.int64],
        outside: float,
    ) -> bool:
        """Lower bounds in place, block by block of the centres; one that can no more be picked is left where it is."""
        learnt = False
        for start in range(int(seen.min()) // _CENTRE_BLOCK * _CENTRE_BLOCK, self.chosen, _CENTRE_BLOCK):
            stop = min(start + _CENTRE_BLOCK, self.chosen)
            rows = np.flatnonzero((seen < stop) & (bounds > outside))
            if not len(rows):
                continue
            learnt = True
            distances = candidates[rows] @ self._centres[start:stop].T
            distances *= -2
            distances += self._centre_norms[start:stop]
            nearest = np.maximum(distances.min(axis=1) + norms[rows], 0)
            bounds[rows] = np.minimum(bounds[rows], nearest)
            seen[rows] = stop
        return learnt

    def _pick(
        self,
        members: NDArray[np.int64],
        candidates: NDArray[np.float32],
        norms: NDArray[np.float32],
        bounds: NDArray[np.float32],
        outside: float,
    ) -> NDArray[np.float32]:
        """Pick the farthest of up-to-date candidates while it is farther than `outside`; return their new bounds."""
        between = candidates @ candidates.T
        between *= -2
        between += norms[:, None]
        between += norms
        np.maximum(between, 0, out=between)
        while self.chosen < len(self.positions):
            best = int(bounds.argmax())
            if not bounds[best] > outside:
                break
            self._add(int(members[best]), candidates[best], norms[best])
            np.minimum(bounds, between[best], out=bounds)
            bounds[best] = -np.inf
        return bounds

    def _add(self, position: int, vector: NDArray[np.float32], norm: np.float32) -> None:
        self.positions[self.chosen] = position
        self._centres[self.chosen] = vector
        self._centre_norms[self.chosen] = norm
        self.chosen += 1


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
        np.minimum(nearest, _squared_distances(points, norms, int(centres[position])), out=nearest)
        nearest[centres[: position + 1]] = -np.inf
    return centres


def _squared_distances(points: NDArray[np.float32], norms: NDArray[np.float32], centre: int) -> NDArray[np.float32]:
    distances: NDArray[np.float32] = norms + (norms[centre] - 2 * (points @ points[centre]))
    return np.maximum(distances, 0, out=distances)
