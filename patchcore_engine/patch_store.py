"""Patch vectors of a fit, in memory or, where they would take too much of it, in an unnamed file on disk."""

import shutil
import tempfile
from dataclasses import dataclass
from io import FileIO
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.errors import MemoryLimitError

FLOAT_BYTES: Final = 4
# Vectors read from disk at a time: 6 MB of 1536 dimensions.
_STRETCH: Final = 1024


class PatchStore:
    """Vectors float32 [n, d], up to `capacity` of them, appended one block after the other.

    With `spill_folder` they lie in a file without a name there, which is gone with the process however it ends. The
    file is written and read, not mapped: pages of a mapped file count as the process's memory.
    """

    def __init__(self, capacity: int, dimension: int, spill_folder: Path | None) -> None:
        self._dimension = dimension
        self._filled = 0
        self._folder = spill_folder
        self._file: FileIO | None = None
        self._vectors = np.empty((0 if spill_folder else capacity, dimension), dtype=np.float32)
        if spill_folder is not None:
            try:
                spill_folder.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=spill_folder, buffering=0)  # noqa: SIM115  (closed in close())
            except OSError as error:
                raise _cannot_spill(spill_folder, str(error.strerror)) from error

    def __len__(self) -> int:
        return self._filled

    @property
    def spilled(self) -> bool:
        return self._file is not None

    def append(self, vectors: NDArray[np.float32]) -> None:
        """Add vectors float32 [n, d]. Raises MemoryLimitError where the disk takes no more."""
        if self._file is None:
            self._vectors[self._filled : self._filled + len(vectors)] = vectors
        else:
            left = np.ascontiguousarray(vectors, dtype=np.float32).data.cast("B")
            try:
                while left:
                    left = left[self._file.write(left) :]
            except OSError as error:
                raise _cannot_spill(self._folder, str(error.strerror)) from error
        self._filled += len(vectors)

    def read(self, start: int, count: int) -> NDArray[np.float32]:
        """Return the vectors from position `start` on, float32 [count, d]; those in memory are not copied."""
        if self._file is None:
            return self._vectors[start : start + count]
        return _read_into(np.empty((count, self._dimension), dtype=np.float32), self._file, start)

    def gather(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors at `positions`, float32 [len(positions), d]."""
        if self._file is None:
            return self._vectors[positions]
        gathered = np.empty((len(positions), self._dimension), dtype=np.float32)
        # Stretch by stretch: reading single vectors costs a slow disk one access each.
        order = np.argsort(positions)
        edges = np.searchsorted(positions[order], np.arange(0, self._filled + _STRETCH, _STRETCH))
        for stretch, (first, last) in enumerate(pairwise(edges)):
            if first < last:
                start = stretch * _STRETCH
                targets = order[first:last]
                gathered[targets] = self.read(start, min(_STRETCH, self._filled - start))[positions[targets] - start]
        return gathered

    def close(self) -> None:
        self._vectors = np.empty((0, self._dimension), dtype=np.float32)
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryNeed:
    """Bytes that a fit of some `pictures` needs in memory at `least`, and bytes of vectors that it must `store`."""

    pictures: int
    least: int
    store: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryLimit:
    """Bytes of memory for a fit: `most` at all, and `comfortable`, beyond which vectors go to disk if it has room."""

    most: int
    comfortable: int

    def spill_folder(self, need: MemoryNeed, folder: Path) -> Path | None:
        """Return where to store the vectors: `folder`, or None for in memory.

        Raises MemoryLimitError where they fit neither, or what must be in memory doesn't fit.
        """
        if need.least > self.most:
            raise MemoryLimitError(
                f"{need.pictures} pictures need {need.least / 1e9:.1f} GB of memory for their projected patches and "
                f"kept vectors; the limit is {self.most / 1e9:.1f} GB. Raise --memory-limit, or lower --coreset-ratio "
                "or the picture count."
            )
        if need.least + need.store <= self.comfortable:
            return None
        free = _free_bytes(folder)
        if free > need.store:
            return folder
        if need.least + need.store <= self.most:
            return None
        raise _cannot_spill(
            folder, f"{need.store / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free. Set TMPDIR to a larger disk"
        )


def _free_bytes(folder: Path) -> int:
    """Return what is free on the disk that holds `folder`, or will once it is made."""
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(there).free


def _read_into(vectors: NDArray[np.float32], file: FileIO, start: int) -> NDArray[np.float32]:
    """Fill `vectors`, [n, d], from position `start` on; the file holds as many."""
    file.seek(start * vectors.shape[1] * FLOAT_BYTES)
    left = vectors.data.cast("B")
    while left:
        left = left[file.readinto(left) :]
    return vectors


def _cannot_spill(folder: Path | None, why: str) -> MemoryLimitError:
    return MemoryLimitError(f"The patch vectors don't fit into memory, nor can they spill to {folder}: {why}.")
