"""All patch vectors of a fit, in memory or, where they would pass the limit, in an unnamed file on disk."""

import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.errors import MemoryLimitError

_FLOAT_BYTES = 4


class PatchStore:
    """Patch vectors float32 [pictures, patches, d], filled one picture after the other.

    With `spill_folder` they lie in a file without a name there, which is gone with the process however it ends.
    """

    def __init__(self, pictures: int, patches: int, dimension: int, spill_folder: Path | None) -> None:
        shape = (pictures, patches, dimension)
        self._file: IO[bytes] | None = None
        self._vectors: NDArray[np.float32]
        if spill_folder is None:
            self._vectors = np.empty(shape, dtype=np.float32)
        else:
            try:
                spill_folder.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=spill_folder)  # noqa: SIM115  (closed in close())
            except OSError as error:
                raise MemoryLimitError(
                    f"The patch vectors don't fit into memory, nor can they spill to {spill_folder}: {error.strerror}."
                ) from error
            self._vectors = np.memmap(self._file, dtype=np.float32, mode="w+", shape=shape)
        self.capacity, self.patches = pictures, patches
        self.pictures = 0

    @property
    def spilled(self) -> bool:
        return self._file is not None

    def append(self, patches: NDArray[np.float32]) -> None:
        """Add the patches of some pictures, float32 [n, patches, d]."""
        self._vectors[self.pictures : self.pictures + len(patches)] = patches
        self.pictures += len(patches)

    def __getitem__(self, picture: int) -> NDArray[np.float32]:
        """Return the patches of one picture, float32 [patches, d]."""
        return np.asarray(self._vectors[picture])

    def gather(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors at `positions` of the flattened store, float32 [len(positions), d]."""
        flat = self._vectors.reshape(-1, self._vectors.shape[2])
        gathered = np.empty((len(positions), flat.shape[1]), dtype=np.float32)
        # In the order of the file, so that a spilled store is read once from front to back.
        for target in np.argsort(positions):
            gathered[target] = flat[positions[target]]
        return gathered

    def close(self) -> None:
        del self._vectors
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def spill_needed(
    *, pictures: int, patches: int, dimension: int, projected_dimension: int, kept: int, limit: int
) -> bool:
    """Tell whether the patch vectors must go to disk to stay within `limit` bytes.

    Raises MemoryLimitError when even the projected patches and the kept vectors don't fit.
    """
    total = pictures * patches
    # The kept vectors exist twice for a moment: gathered, and in the index.
    least = _FLOAT_BYTES * (total * (projected_dimension + 3) + 2 * kept * dimension)
    if least > limit:
        raise MemoryLimitError(
            f"{pictures} pictures need {least / 1e9:.1f} GB of memory for their projected patches and kept vectors; "
            f"the limit is {limit / 1e9:.1f} GB. Raise --memory-limit, or lower --coreset-ratio or the picture count."
        )
    return least + _FLOAT_BYTES * total * dimension > limit
