"""Exact nearest neighbours in a memory bank, by faiss."""

from typing import Final, Literal, get_args

import faiss
import numpy as np
from numpy.typing import NDArray

from patchcore_engine.errors import BankDamagedError

IndexKind = Literal["flat"]
INDEX_KINDS: Final[tuple[IndexKind, ...]] = get_args(IndexKind)


class NearestNeighbours:
    """Finds the nearest bank vectors of patches. Distances are true L2, the square root taken.

    `vectors`: float32 [n, d].
    """

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self._index = faiss.IndexFlatL2(vectors.shape[1])
        self._index.add(np.ascontiguousarray(vectors, dtype=np.float32))

    @classmethod
    def deserialize(cls, data: NDArray[np.uint8]) -> "NearestNeighbours":
        """Read what `serialize` made. The caller has verified its digest: faiss doesn't detect damage.

        Raises BankDamagedError when it is no flat L2 index.
        """
        try:
            index = faiss.deserialize_index(data)
        except RuntimeError as error:
            raise BankDamagedError("The index can't be read by faiss.") from error
        if not isinstance(index, faiss.IndexFlatL2):
            raise BankDamagedError(f"The index is a {type(index).__name__}, not a flat L2 index.")
        neighbours = cls.__new__(cls)
        neighbours._index = index
        return neighbours

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
        squared, positions = self._index.search(np.ascontiguousarray(queries, dtype=np.float32), k)
        distances = np.sqrt(np.maximum(squared, 0, out=squared), out=squared)
        distances[positions < 0] = np.nan
        return distances, positions
