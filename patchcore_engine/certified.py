"""The nearest bank vector of every patch by bounds that prove most of a bank farther, cluster by cluster."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import faiss
import numpy as np
from numpy.typing import NDArray

from patchcore_engine.nearest import ROUNDING, Found, Scratch, compare_pairs, paired_squared, smallest
from patchcore_engine.projection import Projection

# Bank vectors in a cluster, about, and clusters at the most: more would cost more calls than they save products.
_CLUSTER_VECTORS: Final = 48
_MOST_CLUSTERS: Final = 256
# A cluster of more is cut, so that one matrix of bounds holds 8 MB at the most.
_LARGEST_CLUSTER: Final = 1024
_QUERY_BLOCK: Final = 2048
_CLUSTER_SEED: Final = 1
_CLUSTER_ROUNDS: Final = 10
_CLUSTER_SAMPLE: Final = 128
# Pairs of a query and a vector that are kept before they are compared.
_PAIR_BLOCK: Final = 1 << 18
# Where the bounds leave more than this share of a cluster, one product in full is cheaper than the pairs.
_DENSE: Final = 1 / 4


@dataclass(slots=True)
class SearchWork:
    """What searches did for their queries.

    `bounded`: entries of products of projected points. `compared`: pairs of a query and a vector compared in full.
    `multiplied`: entries of products of queries and vectors in full.
    """

    bounded: int = 0
    compared: int = 0
    multiplied: int = 0


class CertifiedSearch:
    """Finds the nearest vectors exactly, for every query, in a fraction of the work of comparing all.

    Queries and vectors are projected to points of few dimensions whose distances are lower bounds (`ProjectedPoints`),
    and the vectors' points are put into clusters. With the true distance to some vector as the limit, a whole cluster
    is farther when its centre is by more than its radius (the triangle inequality); of the clusters left, a vector is
    farther when its point is, by one small product; what remains is compared in full. Every limit allows for the
    rounding of what it is held against.

    `vectors`: float32 [n, d], kept, not copied.
    """

    def __init__(self, vectors: NDArray[np.float32], projection: Projection) -> None:
        self.vectors = vectors
        self.projection = projection
        self.points = projection(vectors)
        self.scratch = Scratch()
        clusters = _clusters(self.points.z)
        self.order = np.argsort(clusters, kind="stable")
        z = self.points.z[self.order]
        edges = [0, *np.cumsum(np.bincount(clusters)).tolist()]
        self.starts = np.concatenate([np.arange(a, b, _LARGEST_CLUSTER) for a, b in pairwise(edges)])
        self.stops = np.append(self.starts[1:], len(vectors))
        # With [z', 1] this gives the squared distance of z and z', less the squared length of z'.
        self.keys = np.column_stack([-2 * z, np.einsum("nk,nk->n", z, z)])
        members = [z[a:b] for a, b in zip(self.starts, self.stops, strict=True)]
        self.centres = np.stack([own.mean(axis=0) for own in members])
        radii = [np.linalg.norm(own - centre, axis=1) for own, centre in zip(members, self.centres, strict=True)]
        self.tolerance = np.float32(ROUNDING * np.sqrt(vectors.shape[1]))
        self.innermost = np.array([own.min() for own in radii], dtype=np.float32) * (1 - self.tolerance)
        self.outermost = np.array([own.max() for own in radii], dtype=np.float32) * (1 + self.tolerance)

    def nearest(self, queries: NDArray[np.float32], work: SearchWork | None = None) -> Found:
        """Return squared distances float32 [q] and positions int64 [q] of the nearest vectors. `queries`: [q, d].

        A query that holds NaN has the squared distance NaN. `work` is added to where it is given.
        """
        squared = np.empty(len(queries), dtype=np.float32)
        positions = np.empty(len(queries), dtype=np.int64)
        for start in range(0, len(queries), _QUERY_BLOCK):
            block = slice(start, start + _QUERY_BLOCK)
            search = _BlockSearch(self, queries[block], work or SearchWork())
            squared[block], positions[block] = search.run()
        return squared, positions


class _BlockSearch:
    """One search for a block of queries; the best found so far is each query's limit."""

    def __init__(self, bank: CertifiedSearch, queries: NDArray[np.float32], work: SearchWork) -> None:
        self._bank = bank
        self._queries = queries
        self._work = work
        self._centred = np.subtract(queries, bank.projection.mean, out=bank.scratch.matrix(*queries.shape))
        self._points = bank.projection.of_centred(self._centred)
        z = self._points.z
        self._lengths = np.einsum("qk,qk->q", z, z)
        self._augmented = np.column_stack([z, np.ones(len(z), dtype=np.float32)])
        self._positions = np.empty(len(queries), dtype=np.int64)
        self._rows: list[NDArray[np.int64]] = []
        self._columns: list[NDArray[np.int64]] = []
        self._waiting = 0

    def run(self) -> Found:
        lower, upper = self._centre_distances()
        self._squared = self._try_clusters(upper.argmin(axis=1))
        self._limits = self._entry_limits()
        bank = self._bank
        bounds = np.maximum(lower - bank.outermost, bank.innermost - upper)
        reach = np.sqrt(self._squared) * (1 + bank.tolerance) + self._points.blur + bank.points.blur.max()
        near = np.ascontiguousarray((bounds <= reach[:, None]).T)
        for cluster in np.flatnonzero(near.any(axis=1)).tolist():
            self._visit(cluster, np.flatnonzero(near[cluster]))
            if self._waiting > _PAIR_BLOCK:
                self._compare_waiting()
        self._compare_waiting()
        return self._squared, self._positions

    def _centre_distances(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return lower and upper bounds of the distances from z to the centres, float32 [q, clusters]."""
        centres = self._bank.centres
        norms = np.einsum("ck,ck->c", centres, centres)
        squared = self._points.z @ centres.T
        squared *= -2
        squared += norms
        squared += self._lengths[:, None]
        slack = self._bank.tolerance * (self._lengths + norms.max())[:, None]
        return np.sqrt(np.maximum(squared - slack, 0)), np.sqrt(np.maximum(squared + slack, 0))

    def _try_clusters(self, clusters: NDArray[np.int64]) -> NDArray[np.float32]:
        """Take the most promising vector of one cluster each as the first found; return its squared distances."""
        order = np.argsort(clusters, kind="stable")
        cuts = np.searchsorted(clusters[order], np.arange(len(self._bank.starts) + 1))
        for cluster in np.flatnonzero(np.diff(cuts)).tolist():
            rows = order[cuts[cluster] : cuts[cluster + 1]]
            bounds = self._augmented.take(rows, axis=0) @ self._keys(cluster).T
            self._positions[rows] = bounds.argmin(axis=1) + self._bank.starts[cluster]
        self._positions = self._bank.order[self._positions]
        every = np.arange(len(self._queries))
        return paired_squared(self._queries, every, self._bank.vectors, self._positions)

    def _entry_limits(self) -> NDArray[np.float32]:
        """Return up to which entry of the products with the keys a vector could still be the nearest."""
        slack = self._points.slack(self._bank.points, self._squared)
        return np.asarray(self._squared + slack - self._lengths, dtype=np.float32)

    def _keys(self, cluster: int) -> NDArray[np.float32]:
        return self._bank.keys[self._bank.starts[cluster] : self._bank.stops[cluster]]

    def _visit(self, cluster: int, rows: NDArray[np.int64]) -> None:
        """Put the pairs of `rows` and the cluster's vectors that their points leave with those that wait."""
        bounds = self._keys(cluster) @ self._augmented.take(rows, axis=0).T
        self._work.bounded += bounds.size
        left = np.flatnonzero(bounds <= self._limits.take(rows))
        if len(left) > max(_DENSE * bounds.size, len(rows)):
            self._multiply(cluster, rows)
        elif len(left):
            members, columns = np.divmod(left, len(rows))
            self._rows.append(rows.take(columns))
            self._columns.append(self._bank.order.take(members + self._bank.starts[cluster]))
            self._waiting += len(left)

    def _multiply(self, cluster: int, rows: NDArray[np.int64]) -> None:
        """Compare `rows` with the whole cluster by one product."""
        members = self._bank.order[self._bank.starts[cluster] : self._bank.stops[cluster]]
        vectors = self._bank.vectors.take(members, axis=0)
        vectors -= self._bank.projection.mean
        products = self._centred.take(rows, axis=0) @ vectors.T
        self._work.multiplied += products.size
        products *= -2
        products += np.einsum("nd,nd->n", vectors, vectors)
        rounding = self._points.rounding.take(rows) + self._bank.points.rounding.max()
        columns, left = smallest(products, np.asarray(rounding, dtype=np.float32))
        self._compare(rows.take(columns), members.take(left))

    def _compare_waiting(self) -> None:
        if self._waiting:
            self._compare(np.concatenate(self._rows), np.concatenate(self._columns))
            self._rows, self._columns, self._waiting = [], [], 0
            self._limits = self._entry_limits()

    def _compare(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> None:
        self._work.compared += len(rows)
        compare_pairs(self._queries, rows, self._bank.vectors, columns, self._squared, self._positions)


def _clusters(points: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the cluster of each point, counted from 0, each with at least one point."""
    count = min(len(points) // _CLUSTER_VECTORS, _MOST_CLUSTERS)
    if count < 2:
        return np.zeros(len(points), dtype=np.int64)
    k_means = faiss.Kmeans(
        points.shape[1],
        count,
        niter=_CLUSTER_ROUNDS,
        seed=_CLUSTER_SEED,
        min_points_per_centroid=1,
        max_points_per_centroid=_CLUSTER_SAMPLE,
    )
    k_means.train(points)
    _, nearest = k_means.index.search(points, 1)
    return np.asarray(np.unique(nearest[:, 0], return_inverse=True)[1], dtype=np.int64)
