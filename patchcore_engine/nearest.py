"""The nearest bank vector of every patch, exactly, by matrix products over the whole bank or over a proof of it."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

# Entries of the product of queries and bank that are held at a time: 16 MB.
_BLOCK_ENTRIES: Final = 4 << 20
# Below this many entries a second thread costs more than it saves.
_THREADED_ENTRIES: Final = 400_000
# A query with more candidates than this goes to the full product.
MOST_CANDIDATES: Final = 48
# Candidates compared at a time, so that their vectors stay in the cache.
_CANDIDATE_BLOCK: Final = 256
# A sum of d products in float32 is off by about sqrt(d) half units in the last place; this is many times as much.
_ROUNDING: Final = 16 * 2.0**-24

# More threads than these would wait for memory.
_SCANNER_COUNT: Final = min(len(os.sched_getaffinity(0)), 8)
_SCANNERS: Final = ThreadPoolExecutor(_SCANNER_COUNT, thread_name_prefix="search")

Found = tuple[NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Projection:
    """An orthonormal projection of centred vectors. `mean`: float32 [d]; `basis`: float32 [d, k], k < d."""

    mean: NDArray[np.float32]
    basis: NDArray[np.float32]


def principal_projection(vectors: NDArray[np.float32], dimension: int) -> Projection:
    """Return the projection on the `dimension` principal components of `vectors`, float32 [n, d]."""
    mean = vectors.mean(axis=0)
    centred = vectors - mean
    _, components = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    return Projection(mean, np.ascontiguousarray(components[:, ::-1][:, :dimension], dtype=np.float32))


class FlatSearch:
    """Compares every query with every vector. `vectors`: float32 [n, d], kept, not copied."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self._vectors = vectors
        self._norms = np.einsum("nd,nd->n", vectors, vectors)
        self._scratch = _Scratch()

    def nearest(self, queries: NDArray[np.float32]) -> Found:
        """Return squared distances float32 [q] and positions int64 [q] of the nearest vectors. `queries`: [q, d]."""
        squared = np.empty(len(queries), dtype=np.float32)
        positions = np.empty(len(queries), dtype=np.int64)
        for block, products in self._scratch.blocks(len(queries), len(self._vectors)):
            np.matmul(queries[block], self._vectors.T, out=products)

            def scan(rows: slice, block: slice = block, products: NDArray[np.float32] = products) -> None:
                entries, own = products[rows], queries[block][rows]
                entries *= -2
                entries += self._norms
                best = entries.argmin(axis=1)
                positions[block][rows] = best
                squared[block][rows] = _squared_distances(self._vectors[best], own)

            _scan_rows(scan, *products.shape)
        return squared, positions


class CertifiedSearch:
    """Finds the same in a fraction of the products, and proves it query by query.

    A vector splits into its projection y and a rest of length r. For a query of parts y', r' its squared distance is
    never below |y - y'|^2 + (r - r')^2, so that a vector whose bound is above the true distance of any other is not
    the nearest. The bounds come from one product in k + 2 dimensions; what they leave is compared in full.
    """

    def __init__(self, vectors: NDArray[np.float32], projection: Projection) -> None:
        self._vectors = vectors
        self._projection = projection
        projected, rest, norms = _split(vectors, projection)
        # With [y', r', 1] this gives the bound less the query's own squared length.
        self._keys = np.ascontiguousarray(np.column_stack([-2 * projected, -2 * rest, norms]).T, dtype=np.float32)
        self._largest_norm = float(norms.max())
        self._flat = FlatSearch(vectors)
        self._scratch = _Scratch()

    def nearest(self, queries: NDArray[np.float32]) -> Found:
        """Return like `FlatSearch.nearest`."""
        squared, positions, candidates = self._search(queries)
        open_ = np.flatnonzero(candidates > MOST_CANDIDATES)
        if len(open_):
            squared[open_], positions[open_] = self._flat.nearest(queries[open_])
        return squared, positions

    def candidates(self, queries: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return how many vectors the bounds leave for each query, int64 [q]: 1 where the first one was proved."""
        return self._search(queries)[2]

    def _search(self, queries: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        projected, rest, norms = _split(queries, self._projection)
        augmented = np.column_stack([projected, rest, np.ones_like(rest)])
        slack = _ROUNDING * np.sqrt(queries.shape[1]) * (norms + self._largest_norm) - norms
        squared = np.empty(len(queries), dtype=np.float32)
        positions = np.empty(len(queries), dtype=np.int64)
        candidates = np.empty(len(queries), dtype=np.int64)
        for block, bounds in self._scratch.blocks(len(queries), len(self._vectors)):
            np.matmul(augmented[block], self._keys, out=bounds)

            def scan(rows: slice, block: slice = block, bounds: NDArray[np.float32] = bounds) -> None:
                found = self._refine(bounds[rows], queries[block][rows], slack[block][rows])
                squared[block][rows], positions[block][rows], candidates[block][rows] = found

            _scan_rows(scan, *bounds.shape)
        return squared, positions, candidates

    def _refine(
        self, bounds: NDArray[np.float32], queries: NDArray[np.float32], slack: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        best = bounds.argmin(axis=1)
        squared = _squared_distances(self._vectors[best], queries)
        left = np.flatnonzero(bounds <= (squared + slack)[:, None])
        rows = left // bounds.shape[1]
        counts = np.bincount(rows, minlength=len(queries))
        several = (counts[rows] > 1) & (counts[rows] <= MOST_CANDIDATES)
        if several.any():
            rows, columns = rows[several], left[several] % bounds.shape[1]
            exact = np.empty(len(rows), dtype=np.float32)
            for start in range(0, len(rows), _CANDIDATE_BLOCK):
                part = slice(start, start + _CANDIDATE_BLOCK)
                exact[part] = _squared_distances(self._vectors[columns[part]], queries[rows[part]])
            # The first of each row, rows in order and distances ascending, is its nearest.
            firsts = np.lexsort((exact, rows))[np.flatnonzero(np.diff(rows, prepend=-1))]
            squared[rows[firsts]], best[rows[firsts]] = exact[firsts], columns[firsts]
        return squared, best, counts


class _Scratch(threading.local):
    """A matrix for products, one per thread, kept because fresh memory costs as much as filling it."""

    def __init__(self) -> None:
        self._entries = np.empty(0, dtype=np.float32)

    def blocks(self, rows: int, columns: int) -> "Sequence[tuple[slice, NDArray[np.float32]]]":
        """Return slices of the rows, each with a float32 matrix of its shape that the next block uses again."""
        height = min(max(1, _BLOCK_ENTRIES // columns), rows)
        if self._entries.size < height * columns:
            self._entries = np.empty(height * columns, dtype=np.float32)
        slices = [slice(start, min(start + height, rows)) for start in range(0, rows, max(height, 1))]
        return [
            (part, self._entries[: (part.stop - part.start) * columns].reshape(part.stop - part.start, columns))
            for part in slices
        ]


def _scan_rows(scan: Callable[[slice], None], rows: int, columns: int) -> None:
    """Call `scan` with slices of the rows, side by side where there is enough to do."""
    parts = _SCANNER_COUNT if rows * columns >= _THREADED_ENTRIES else 1
    height = -(-rows // parts)
    slices = [slice(start, min(start + height, rows)) for start in range(0, rows, height)]
    if len(slices) == 1:
        scan(slices[0])
    else:
        list(_SCANNERS.map(scan, slices))


def _split(vectors: NDArray[np.float32], projection: Projection) -> tuple[NDArray[np.float32], ...]:
    """Return projections [n, k], lengths of the rests [n], and squared lengths of the centred vectors [n]."""
    centred: NDArray[np.float32] = vectors - projection.mean
    projected: NDArray[np.float32] = centred @ projection.basis
    norms: NDArray[np.float32] = np.einsum("nd,nd->n", centred, centred)
    rests: NDArray[np.float32] = np.sqrt(np.maximum(norms - np.einsum("nd,nd->n", projected, projected), 0))
    return projected, rests, norms


def _squared_distances(vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the squared distances of paired rows, float32 [n]; overwrites `vectors`."""
    vectors -= queries
    squared: NDArray[np.float32] = np.einsum("nd,nd->n", vectors, vectors)
    return squared
