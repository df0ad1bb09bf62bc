"""The vectors of a memory bank: kept by faiss, searched exactly."""

import struct
from functools import cached_property
from typing import Final, Literal, get_args

import faiss
import numpy as np
from numpy.typing import NDArray

from patchcore_engine.certified import CertifiedSearch
from patchcore_engine.errors import BankDamagedError
from patchcore_engine.nearest import FlatSearch
from patchcore_engine.projection import Projection, principal_projection
from patchcore_engine.several_nearest import SeveralNearest

IndexKind = Literal["flat", "pca"]
INDEX_KINDS: Final[tuple[IndexKind, ...]] = get_args(IndexKind)
DEFAULT_PROJECTED: Final = 64

# Queries times dimension from which on faiss computes distances by matrix products. Its own 128,000 leaves one picture
# of 784 patches in 152 dimensions to a loop that takes ten times as long.
faiss.cvar.distance_compute_blas_threshold = 1000


# faiss/impl/index_write.cpp: kind, dimension, vectors, two fillers, trained, metric, how many float32 follow.
_FLAT_HEADER: Final = struct.Struct("<4siqqq?iQ")
_L2: Final = 1


def _is_flat_index(header: bytes, size: int) -> bool:
    if len(header) < _FLAT_HEADER.size:
        return False
    kind, dimension, count, _, _, _, metric, numbers = _FLAT_HEADER.unpack(header)
    return (
        (kind, metric) == (b"IxF2", _L2)
        and dimension > 0
        and count > 0
        and dimension * count == numbers
        and _FLAT_HEADER.size + 4 * numbers == size
    )


class NearestNeighbours:
    """Finds the nearest bank vectors of patches. Distances are true L2, the square root taken.

    `vectors`: float32 [n, d]. Every kind gives the exact nearest vector: "flat" by comparing all, "pca" by bounds in
    the few dimensions of `projection` that prove most vectors farther (`certified.CertifiedSearch`). Several neighbours
    are always found by comparing all.
    """

    def __init__(
        self, vectors: NDArray[np.float32], kind: IndexKind = "flat", projection: Projection | None = None
    ) -> None:
        index = faiss.IndexFlatL2(vectors.shape[1])
        index.add(np.ascontiguousarray(vectors, dtype=np.float32))
        self._take(index)
        if kind == "pca":
            kept = min(DEFAULT_PROJECTED, max(1, self.dimension // 2))
            self.prove_with(projection or principal_projection(self.vectors, kept))

    @classmethod
    def deserialize(cls, data: NDArray[np.uint8]) -> "NearestNeighbours":
        """Read what `serialize` made, as a flat index. The caller has verified its digest: faiss doesn't detect damage.

        Raises BankDamagedError when it is no flat L2 index of finite vectors. faiss takes the memory that a file
        states, so its lengths must fit each other and the file first.
        """
        if not _is_flat_index(data[: _FLAT_HEADER.size].tobytes(), len(data)):
            raise BankDamagedError("The index is no flat L2 index, or it is cut off.")
        try:
            index = faiss.deserialize_index(data)
        except RuntimeError as error:
            raise BankDamagedError("The index can't be read by faiss.") from error
        if not isinstance(index, faiss.IndexFlatL2):
            raise BankDamagedError(f"The index is a {type(index).__name__}, not a flat L2 index.")
        neighbours = cls.__new__(cls)
        neighbours._take(index)
        if not np.isfinite(neighbours.vectors).all():
            raise BankDamagedError("The index holds values that are no numbers.")
        return neighbours

    def _take(self, index: faiss.IndexFlatL2) -> None:
        self._index = index
        self.projection: Projection | None = None
        self._search: FlatSearch | CertifiedSearch = FlatSearch(self.vectors)

    def prove_with(self, projection: Projection) -> None:
        """Make this a "pca" index, before anybody searches it. `projection`: of as many dimensions as the vectors."""
        self.projection = projection
        self._search = CertifiedSearch(self.vectors, projection)

    @property
    def kind(self) -> IndexKind:
        return "flat" if self.projection is None else "pca"

    def serialize(self) -> NDArray[np.uint8]:
        return np.asarray(faiss.serialize_index(self._index), dtype=np.uint8)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def dimension(self) -> int:
        return int(self._index.d)

    @property
    def vectors(self) -> NDArray[np.float32]:
        """The bank's vectors, float32 [n, d]: a view, valid while this object lives."""
        flat = faiss.rev_swig_ptr(self._index.get_xb(), len(self) * self.dimension)
        return np.asarray(flat, dtype=np.float32).reshape(len(self), self.dimension)

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return distances float32 [q, k] in ascending order and bank positions int64 [q, k]; k <= len(self).

        `queries`: float32 [q, d]. A query that holds NaN has no neighbour: its distances are NaN.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if k == 1:
            squared, positions = self._search.nearest(queries)
            return np.sqrt(squared)[:, None], positions[:, None]
        squared, positions = self._several.nearest(queries, k)
        return np.sqrt(squared), positions

    @cached_property
    def _several(self) -> SeveralNearest:
        # Not centred: only single queries ask a bank that serves, and the copy would take as much memory as the bank.
        return SeveralNearest(self.vectors, centred=False)
