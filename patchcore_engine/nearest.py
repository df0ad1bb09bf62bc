"""The nearest bank vector of every patch by one matrix product with the whole bank."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import faiss
import numpy as np
from numpy.typing import NDArray

# Entries of the product of queries and bank that are held at a time: 16 MB.
_BLOCK_ENTRIES: Final = 4 << 20
_QUERY_BLOCK: Final = 1024
# Below this many entries a second thread costs more than it saves.
_THREADED_ENTRIES: Final = 400_000

# More threads than these would wait for memory.
_SCANNER_COUNT: Final = min(len(os.sched_getaffinity(0)), 8)
_SCANNERS: Final = ThreadPoolExecutor(_SCANNER_COUNT, thread_name_prefix="search")

# A sum of d products in float32 is off by about sqrt(d) half units in the last place; this is many times as much.
ROUNDING: Final = 16 * 2.0**-24

Found = tuple[NDArray[np.float32], NDArray[np.int64]]


class FlatSearch:
    """Compares every query with every vector. `vectors`: float32 [n, d], kept, not copied.

    The product tells squared distances but for its rounding; the vectors that rounding may have put behind the
    smallest are compared in full.
    """

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self._vectors = vectors
        self._norms = np.einsum("nd,nd->n", vectors, vectors)
        self._scratch = Scratch()

    def nearest(self, queries: NDArray[np.float32]) -> Found:
        """Return squared distances float32 [q] and positions int64 [q] of the nearest vectors. `queries`: [q, d].

        A query that holds NaN has the squared distance NaN.
        """
        squared = np.full(len(queries), np.nan, dtype=np.float32)
        positions = np.zeros(len(queries), dtype=np.int64)
        norms = np.einsum("qd,qd->q", queries, queries)
        rounding = np.float32(ROUNDING * queries.shape[1] ** 0.5) * (norms + self._norms.max())
        for rows in _slices(len(queries), _QUERY_BLOCK):
            for columns in _slices(len(self._vectors), max(1, _BLOCK_ENTRIES // (rows.stop - rows.start))):
                self._search(queries[rows], columns, rounding[rows], squared[rows], positions[rows])
        return squared, positions

    def _search(
        self,
        queries: NDArray[np.float32],
        columns: slice,
        rounding: NDArray[np.float32],
        squared: NDArray[np.float32],
        positions: NDArray[np.int64],
    ) -> None:
        """Search a part of the bank and keep in place what is nearer than what was found before."""
        products = self._scratch.matrix(len(queries), columns.stop - columns.start)
        np.matmul(queries, self._vectors[columns].T, out=products)

        def scan(rows: slice) -> None:
            entries = products[rows]
            entries *= -2
            entries += self._norms[columns]
            own, found = smallest(entries, rounding[rows])
            compare_pairs(queries[rows], own, self._vectors, found + columns.start, squared[rows], positions[rows])

        _scan_rows(scan, *products.shape)


def smallest(
    entries: NDArray[np.float32], rounding: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and columns, int64 [pairs], of what could be the smallest entry of a row that is off by `rounding`.

    `entries`: float32 [rows, columns]. `rounding`: float32 [rows].
    """
    limits = entries.min(axis=1) + 2 * rounding
    rows, columns = np.divmod(np.flatnonzero(entries <= limits[:, None]), entries.shape[1])
    return rows, columns


def compare_pairs(
    queries: NDArray[np.float32],
    rows: NDArray[np.int64],
    vectors: NDArray[np.float32],
    columns: NDArray[np.int64],
    squared: NDArray[np.float32],
    positions: NDArray[np.int64],
) -> None:
    """Compare `queries[rows]` with `vectors[columns]` in full; put what is nearer than `squared`, or this NaN, there.

    Of vectors at equal distances any is taken.
    """
    exact = paired_squared(queries, rows, vectors, columns)
    np.fmin.at(squared, rows, exact)
    nearest = np.flatnonzero(exact == squared.take(rows))
    positions[rows.take(nearest)] = columns.take(nearest)


def paired_squared(
    left: NDArray[np.float32], rows: NDArray[np.int64], right: NDArray[np.float32], columns: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the squared distances of `left[rows]` and `right[columns]`, float32 [pairs], without copying either."""
    squared = np.empty(len(rows), dtype=np.float32)
    if len(rows):
        faiss.pairwise_indexed_L2sqr(  # type: ignore[attr-defined]  # its stubs leave it out
            left.shape[1],
            len(rows),
            faiss.swig_ptr(left),
            faiss.swig_ptr(rows),
            faiss.swig_ptr(right),
            faiss.swig_ptr(columns),
            faiss.swig_ptr(squared),
        )
    return squared


class Scratch(threading.local):
    """A matrix for each thread, kept because fresh memory costs as much as filling it."""

    def __init__(self) -> None:
        self._entries = np.empty(0, dtype=np.float32)

    def matrix(self, rows: int, columns: int) -> NDArray[np.float32]:
        """Return a float32 matrix of any content; the next one takes its place."""
        if self._entries.size < rows * columns:
            self._entries = np.empty(rows * columns, dtype=np.float32)
        return self._entries[: rows * columns].reshape(rows, columns)


def _scan_rows(scan: Callable[[slice], None], rows: int, columns: int) -> None:
    """Call `scan` with slices of the rows, side by side where there is enough to do."""
    parts = _SCANNER_COUNT if rows * columns >= _THREADED_ENTRIES else 1
    slices = _slices(rows, -(-rows // parts))
    if len(slices) == 1:
        scan(slices[0])
    else:
        list(_SCANNERS.map(scan, slices))


def _slices(total: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]
