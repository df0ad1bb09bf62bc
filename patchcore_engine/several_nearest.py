"""The several nearest vectors of each query, exact however alike all vectors are."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.nearest import ROUNDING, Found, Scratch, paired_squared

# Entries of the product of queries and vectors that are held at a time: 16 MB.
_BLOCK_ENTRIES: Final = 4 << 20
# Groups of entries for each neighbour that is looked for.
_GROUPS_EACH: Final = 64


class SeveralNearest:
    """Compares every query with every vector. `vectors`: float32 [n, d], kept, not copied.

    A product tells squared distances but for its rounding; the vectors that rounding may have put behind the nearest
    are compared in full. Where vectors share most of what they are, those are many, unless both sides are `centred`:
    less the vectors' mean, which takes as much memory as the vectors.
    """

    def __init__(self, vectors: NDArray[np.float32], *, centred: bool) -> None:
        self._vectors = vectors
        mean = vectors.mean(axis=0, dtype=np.float64) if centred else np.zeros(vectors.shape[1])
        self._mean = mean.astype(np.float32)
        self._points = vectors - self._mean if centred else vectors
        self._norms = np.einsum("nd,nd->n", self._points, self._points)
        self._scratch = Scratch()
        self._tolerance = np.float32(ROUNDING * vectors.shape[1] ** 0.5)

    def nearest(self, queries: NDArray[np.float32], count: int, left_out: NDArray[np.bool_] | None = None) -> Found:
        """Return squared distances float32 [q, count], ascending, and positions int64 [q, count]; count <= n.

        `queries`: float32 [q, d]. `left_out`: bool [q, n], vectors that don't count for a query. Where fewer are left,
        and for a query that holds NaN, NaN and -1 stand in their place.
        """
        squared = np.full((len(queries), count), np.nan, dtype=np.float32)
        positions = np.full((len(queries), count), -1, dtype=np.int64)
        size = max(1, _BLOCK_ENTRIES // len(self._vectors))
        for start in range(0, len(queries), size):
            rows = slice(start, start + size)
            skipped = None if left_out is None else left_out[rows]
            self._search(queries[rows], skipped, squared[rows], positions[rows])
        return squared, positions

    def _search(
        self,
        queries: NDArray[np.float32],
        left_out: NDArray[np.bool_] | None,
        squared: NDArray[np.float32],
        positions: NDArray[np.int64],
    ) -> None:
        points = queries - self._mean
        rounding = self._tolerance * (np.einsum("qd,qd->q", points, points) + self._norms.max())
        points *= -2
        entries = np.matmul(points, self._points.T, out=self._scratch.matrix(len(points), len(self._points)))
        entries += self._norms
        if left_out is not None:
            entries[left_out] = np.inf
        rows, columns = _candidates(entries, squared.shape[1], rounding)
        exact = paired_squared(queries, rows, self._vectors, columns)
        # Of equal ones the first, on every machine.
        order = np.lexsort((columns, exact, rows))
        rows, columns, exact = rows[order], columns[order], exact[order]
        place = np.arange(len(rows)) - np.searchsorted(rows, rows)
        kept = place < squared.shape[1]
        squared[rows[kept], place[kept]] = exact[kept]
        positions[rows[kept], place[kept]] = columns[kept]


def neighbours_of_each(vectors: NDArray[np.float32], count: int) -> NDArray[np.int32]:
    """Return int32 [n, count]: the vectors nearest to each, itself first, also among others equal to it."""
    _, positions = SeveralNearest(vectors, centred=True).nearest(vectors, count)
    own = np.arange(len(vectors))
    strangers = ~(positions == own[:, None]).any(axis=1)
    positions[strangers, -1] = own[strangers]
    order = np.argsort(positions != own[:, None], axis=1, kind="stable")
    return np.take_along_axis(positions, order, axis=1).astype(np.int32)


def _candidates(
    entries: NDArray[np.float32], count: int, rounding: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and columns, int64 [pairs], of what could be among a row's `count` smallest, off by `rounding`."""
    # The `count` smallest of groups' least entries are above no less than `count` entries, and far fewer to sort.
    size = entries.shape[1] // (_GROUPS_EACH * count) or 1
    groups = entries[:, : entries.shape[1] // size * size].reshape(len(entries), size, -1).min(axis=1)
    limits = np.partition(groups, count - 1, axis=1)[:, count - 1] + 2 * rounding
    # Not those that are left out.
    limits = np.minimum(limits, np.finfo(np.float32).max)
    rows, columns = np.divmod(np.flatnonzero(entries <= limits[:, None]), entries.shape[1])
    return rows, columns
