"""Which kind of search suits a bank: worked out from counted work, so that the same pictures give the same choice."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.certified import CertifiedSearch, SearchWork
from patchcore_engine.index import IndexKind, NearestNeighbours
from patchcore_engine.projection import Projection, principal_projection

IndexChoice = Literal["auto", "flat", "pca"]

_PROJECTED: Final = (16, 32, 48, 64, 96, 128, 192)
# Costs in multiply-adds of a matrix product, as measured on two cores with AVX-512 (`patchline bench search`): of one
# entry of a product besides its own, of one pair compared in full, and of one float of it.
_ENTRY_COST: Final = 40
_PAIR_COST: Final = 600
_PAIR_FLOAT_COST: Final = 16
# Bounds must promise this much before they are worth their memory.
_WORTHWHILE: Final = 0.7


@dataclass(frozen=True, slots=True)
class ChosenIndex:
    """An index, and what the sample queries said of it.

    `visited`: share of the bank that a query's bounds were computed for, the rest lying in clusters proved too far;
    `compared`: mean number of vectors that a query was compared with in full. None for a flat index.
    """

    index: NearestNeighbours
    visited: float | None = None
    compared: float | None = None


def choose_index(
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    choice: IndexChoice,
    strangers: NDArray[np.bool_] | None = None,
) -> ChosenIndex:
    """Return an index over `vectors`, float32 [n, d]; "auto" takes the kind that costs least for `queries`, [q, d].

    `strangers`: bool [n], the vectors that come from other pictures than the queries. Where they are given only these
    are searched for the choice, since a part in service meets none of its own patches.
    """
    dimensions = [kept for kept in _PROJECTED if kept <= vectors.shape[1] // 2]
    if choice == "flat" or not dimensions or (choice == "auto" and len(vectors) < dimensions[0]):
        kind: IndexKind = "flat" if choice != "pca" else "pca"
        return ChosenIndex(NearestNeighbours(vectors, kind))
    widest = principal_projection(vectors, dimensions[-1])
    others = vectors if strangers is None or not strangers.any() else vectors[strangers]
    trials = [_try(others, queries, widest, kept) for kept in dimensions]
    best = min(trials, key=lambda trial: trial.cost)
    if choice == "auto" and best.cost > _WORTHWHILE * _flat_cost(others):
        return ChosenIndex(NearestNeighbours(vectors))
    return ChosenIndex(NearestNeighbours(vectors, "pca", best.projection), best.visited, best.compared)


@dataclass(frozen=True, slots=True)
class _Trial:
    """What a query costs with one projection, in multiply-adds, and what `ChosenIndex` tells of it."""

    projection: Projection
    cost: float
    visited: float
    compared: float


def _try(vectors: NDArray[np.float32], queries: NDArray[np.float32], widest: Projection, kept: int) -> _Trial:
    projection = Projection(widest.mean, np.ascontiguousarray(widest.basis[:, :kept]))
    work = SearchWork()
    CertifiedSearch(vectors, projection).nearest(queries, work)
    dimension = vectors.shape[1]
    entries, pairs = work.bounded / len(queries), (work.compared + len(queries)) / len(queries)
    cost = (
        dimension * kept
        + entries * (kept + _ENTRY_COST)
        + pairs * (_PAIR_COST + dimension * _PAIR_FLOAT_COST)
        + work.multiplied / len(queries) * (dimension + _ENTRY_COST)
    )
    return _Trial(projection, cost, entries / len(vectors), pairs)


def _flat_cost(vectors: NDArray[np.float32]) -> float:
    count, dimension = vectors.shape
    return float(count * (dimension + _ENTRY_COST))
