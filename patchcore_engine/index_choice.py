"""Which kind of search suits a bank: worked out from counted work, so that the same pictures give the same choice."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.index import IndexKind, NearestNeighbours
from patchcore_engine.nearest import MOST_CANDIDATES, CertifiedSearch, Projection, principal_projection

IndexChoice = Literal["auto", "flat", "pca"]

_PROJECTED: Final = (32, 64, 96, 128, 192, 256)
# Costs of one entry of the product's scan and of one float of a candidate, in multiply-adds of a matrix product, as
# measured on two cores with AVX-512 (`patchline bench search`).
_SCAN_COST: Final = 40
_CANDIDATE_COST: Final = 40
# Bounds must promise this much before they are worth their memory.
_WORTHWHILE: Final = 0.7


@dataclass(frozen=True, slots=True)
class ChosenIndex:
    """An index, and what the sample queries said of it.

    `proved`: share of the queries whose nearest vector the bounds proved, the rest went through the full product;
    `candidates`: mean number of vectors that were compared in full for the proved ones. None for a flat index.
    """

    index: NearestNeighbours
    proved: float | None = None
    candidates: float | None = None


def choose_index(vectors: NDArray[np.float32], queries: NDArray[np.float32], choice: IndexChoice) -> ChosenIndex:
    """Return an index over `vectors`, float32 [n, d]; "auto" takes the kind that costs least for `queries`, [q, d]."""
    dimensions = [kept for kept in _PROJECTED if kept <= vectors.shape[1] // 2]
    if choice == "flat" or not dimensions or (choice == "auto" and len(vectors) < dimensions[0]):
        kind: IndexKind = "flat" if choice != "pca" else "pca"
        return ChosenIndex(NearestNeighbours(vectors, kind))
    widest = principal_projection(vectors, dimensions[-1])
    trials = [_try(vectors, queries, widest, kept) for kept in dimensions]
    best = min(trials, key=lambda trial: trial.cost)
    if choice == "auto" and best.cost > _WORTHWHILE * _flat_cost(vectors):
        return ChosenIndex(NearestNeighbours(vectors))
    return ChosenIndex(NearestNeighbours(vectors, "pca", best.projection), best.proved, best.candidates)


@dataclass(frozen=True, slots=True)
class _Trial:
    projection: Projection
    cost: float
    proved: float
    candidates: float


def _try(vectors: NDArray[np.float32], queries: NDArray[np.float32], widest: Projection, kept: int) -> _Trial:
    projection = Projection(widest.mean, np.ascontiguousarray(widest.basis[:, :kept]))
    counts = CertifiedSearch(vectors, projection).candidates(queries)
    proved = counts <= MOST_CANDIDATES
    candidates = float(counts[proved].mean()) if proved.any() else 0.0
    count, dimension = vectors.shape
    bounds = dimension * kept + count * (kept + 2 + 2 * _SCAN_COST)
    full = proved.mean() * candidates * dimension * _CANDIDATE_COST + (1 - proved.mean()) * _flat_cost(vectors)
    return _Trial(projection, float(bounds + full), float(proved.mean()), candidates)


def _flat_cost(vectors: NDArray[np.float32]) -> float:
    count, dimension = vectors.shape
    return float(count * (dimension + _SCAN_COST))
