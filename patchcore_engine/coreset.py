"""Greedy k-centre selection (PatchCore, algorithm 1) in a random projection of the patches."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.random_projection import SparseRandomProjection

from patchcore_engine.errors import DataError
from patchcore_engine.progress import Advance

PROJECTED_DIMENSION: Final = 128
# Below this, projecting to 128 dimensions saves less than it costs.
_LARGEST_UNPROJECTED: Final = 192
# Bounds that a round brings up to date, and how many of the largest of these it picks from.
_POOL_SIZE: Final = 16_384
_ROUND_SIZE: Final = 8_192
# With no more new centres than this it is cheaper to bring all bounds up to date in the order of memory.
_FEW_CENTRES: Final = 64
# Points and centres that are multiplied at a time: the product of 2 MB stays in the cache.
_ROW_BLOCK: Final = 2_048
_CENTRE_BLOCK: Final = 256
# Picks after which those that can no more be picked are left out.
_PICKS_AT_ONCE: Final = 128
# Beyond this squared length of a point, distances from products may overflow.
_LONGEST_SQUARED: Final = float(np.finfo(np.float32).max) / 32


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

    Of two points whose distances differ by rounding alone either may be first.

    The sequence is that of the plain loop, `plain_greedy_k_centre`, for a fraction of its work: the distance to the
    nearest centre only shrinks as centres are added, so an outdated one is an upper bound. Each round brings a pool of
    the largest bounds up to date by matrix products, and picks among the farthest of it while these are farther than
    every bound outside.

    Raises DataError for points that aren't finite, or so long that their distances wouldn't be.
    """
    # Bounds that are no numbers would never be picked from. NaN is not below anything.
    if not np.einsum("nd,nd->n", points, points).max(initial=0) < _LONGEST_SQUARED:
        raise DataError("Patches hold values that are no numbers, or too large: check the weights and the device.")
    if count >= len(points):
        advance(len(points))
        return np.arange(len(points), dtype=np.int64)
    selection = _Selection(_centred(points), count, seed)
    reported, pool_size = 0, _POOL_SIZE
    while selection.chosen < count:
        advance(selection.chosen - reported)
        reported = selection.chosen
        # Nothing learnt means that as many equal bounds as a pool holds lie at its edge: widen it.
        pool_size = _POOL_SIZE if selection.pick_round(pool_size) else 2 * pool_size
    advance(count - reported)
    return selection.positions


class _Selection:
    """Centres chosen so far, and for every point an upper bound of its squared distance to the nearest of them."""

    def __init__(self, points: NDArray[np.float32], count: int, seed: int) -> None:
        self._points = points
        self._norms = np.einsum("nd,nd->n", points, points)
        self.positions = np.empty(count, dtype=np.int64)
        # The centres times -2, so that a product needs only their squared lengths to tell distances.
        self._keys = np.empty((count, points.shape[1]), dtype=np.float32)
        self._centre_norms = np.empty(count, dtype=np.float32)
        self.chosen = 0
        self._bounds = np.full(len(points), np.inf, dtype=np.float32)
        # How many of the centres each bound has seen, and how many all have.
        self._seen = np.zeros(len(points), dtype=np.int64)
        self._seen_by_all = 0
        self._scratch = np.empty(_ROW_BLOCK * _CENTRE_BLOCK, dtype=np.float32)
        first = int(np.random.default_rng(seed).integers(len(points)))
        self._add(first, points[first], self._norms[first])
        self._bounds[first] = -np.inf

    def pick_round(self, pool_size: int) -> bool:
        """Pick what can be picked from the `pool_size` largest bounds; False when nothing was learnt."""
        before = self.chosen
        if self.chosen - self._seen_by_all <= _FEW_CENTRES or pool_size >= len(self._points):
            pool, floor = np.arange(len(self._points)), -np.inf
            learnt = self._bring_all_up_to_date()
        else:
            pool, floor = _largest(self._bounds, pool_size)
            pool.sort()
            learnt = self._bring_up_to_date(pool, floor)
        farthest, outside = _largest(self._bounds[pool], pool_size // _POOL_SIZE * _ROUND_SIZE)
        self._pick(pool[farthest], max(floor, outside))
        return learnt or self.chosen > before

    def _bring_all_up_to_date(self) -> bool:
        """Lower every bound, in the order in which the points lie in memory."""
        learnt = self._seen_by_all < self.chosen
        for start in range(0, len(self._points) if learnt else 0, _ROW_BLOCK):
            block = slice(start, start + _ROW_BLOCK)
            for first in range(self._seen_by_all, self.chosen, _CENTRE_BLOCK):
                nearest = self._nearest(self._points[block], self._norms[block], first)
                np.minimum(self._bounds[block], nearest, out=self._bounds[block])
        self._seen[:] = self._seen_by_all = self.chosen
        return learnt

    def _bring_up_to_date(self, pool: NDArray[np.int64], floor: float) -> bool:
        """Lower the pool's bounds, block by block of the centres, while they are above `floor`."""
        learnt = False
        for first in range(self._seen_by_all, self.chosen, _CENTRE_BLOCK):
            stop = min(first + _CENTRE_BLOCK, self.chosen)
            stale = pool[(self._seen[pool] < stop) & (self._bounds[pool] > floor)]
            for start in range(0, len(stale), _ROW_BLOCK):
                rows = stale[start : start + _ROW_BLOCK]
                nearest = self._nearest(self._points.take(rows, axis=0), self._norms[rows], first)
                self._bounds[rows] = np.minimum(self._bounds[rows], nearest)
            self._seen[stale] = stop
            learnt = learnt or len(stale) > 0
        return learnt

    def _nearest(self, points: NDArray[np.float32], norms: NDArray[np.float32], first: int) -> NDArray[np.float32]:
        """Return the squared distances of points to the nearest of the block of centres that begins with `first`."""
        stop = min(first + _CENTRE_BLOCK, self.chosen)
        if stop - first <= _FEW_CENTRES:
            # Short rows are slow to go through: let the points be the columns.
            products = self._keys[first:stop] @ points.T
            products += self._centre_norms[first:stop, None]
            return np.asarray(np.maximum(products.min(axis=0) + norms, 0))
        products = self._scratch[: len(points) * (stop - first)].reshape(len(points), stop - first)
        np.matmul(points, self._keys[first:stop].T, out=products)
        products += self._centre_norms[first:stop]
        return np.asarray(np.maximum(products.min(axis=1) + norms, 0))

    def _pick(self, members: NDArray[np.int64], floor: float) -> None:
        """Pick the farthest of members whose bounds are up to date while it is farther than `floor`."""
        while self.chosen < len(self.positions):
            members = members[self._bounds[members] > floor]
            if not len(members):
                return
            points, norms, bounds = self._points[members], self._norms[members], self._bounds[members]
            for _ in range(min(_PICKS_AT_ONCE, len(self.positions) - self.chosen)):
                best = int(bounds.argmax())
                if not bounds[best] > floor:
                    break
                self._add(int(members[best]), points[best], norms[best])
                distances = points @ points[best]
                distances *= -2
                distances += norms
                distances += norms[best]
                np.minimum(bounds, np.maximum(distances, 0, out=distances), out=bounds)
                bounds[best] = -np.inf
            self._bounds[members], self._seen[members] = bounds, self.chosen

    def _add(self, position: int, vector: NDArray[np.float32], norm: np.float32) -> None:
        self.positions[self.chosen] = position
        self._keys[self.chosen] = -2 * vector
        self._centre_norms[self.chosen] = norm
        self.chosen += 1


def _largest(bounds: NDArray[np.float32], size: int) -> tuple[NDArray[np.int64], float]:
    """Return the positions of the `size` largest bounds and the largest of the others."""
    if size >= len(bounds):
        return np.arange(len(bounds)), -np.inf
    order = np.argpartition(bounds, len(bounds) - size - 1)
    return order[len(bounds) - size :], float(bounds[order[len(bounds) - size - 1]])


def plain_greedy_k_centre(points: NDArray[np.float32], count: int, seed: int) -> NDArray[np.int64]:
    """Select like `greedy_k_centre`, one full pass over all points a centre: the oracle for tests and benchmarks."""
    total = len(points)
    if count >= total:
        return np.arange(total, dtype=np.int64)
    points = _centred(points)
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


def _centred(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a copy about its mean: distances from lengths and products lose what the lengths have in common."""
    return np.asarray(np.subtract(points, points.mean(axis=0), order="C"))


def _squared_distances(points: NDArray[np.float32], norms: NDArray[np.float32], centre: int) -> NDArray[np.float32]:
    distances: NDArray[np.float32] = norms + (norms[centre] - 2 * (points @ points[centre]))
    return np.maximum(distances, 0, out=distances)
