"""What a fit keeps of its pictures' patches: the vectors for the bank, and all of the pictures that calibrate it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.coreset import RandomProjection, coreset_size, greedy_k_centre
from patchcore_engine.manifest import CoresetMerge
from patchcore_engine.merged_coreset import CoresetPlan, MergedCoreset
from patchcore_engine.patch_store import FLOAT_BYTES, MemoryLimit, MemoryNeed, PatchStore
from patchcore_engine.progress import Advance

# The greedy choice holds these beside each point: its length, its bound, and how many centres the bound has seen.
_FLOATS_BESIDE_A_POINT: Final = 4


@dataclass(frozen=True, slots=True)
class BankVectors:
    """A coreset unprojected, float32 [n, d], and the number of the picture that each vector came from, int32 [n]."""

    vectors: NDArray[np.float32]
    owners: NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What to gather: of `pictures`, with `patches` vectors of `dimension` each, a coreset of `ratio`.

    `calibrating`: the numbers of the pictures whose patches are all kept, ascending.
    """

    pictures: int
    patches: int
    dimension: int
    ratio: float
    seed: int
    calibrating: Sequence[int]
    plan: CoresetPlan


class PatchGathering(ABC):
    """Takes the patches of one batch after the other, then gives the bank's vectors and those that calibrate.

    One thread at a time may call it. `pictures`: how many were taken; `backlog`: how many may wait to be taken.
    """

    backlog = 0

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._projection = RandomProjection(wanted.dimension, wanted.seed)
        self._stores: list[PatchStore] = []
        self.pictures = 0

    @property
    def calibrating(self) -> list[int]:
        """The numbers of the pictures that calibrate, of those taken."""
        return [number for number in self._wanted.calibrating if number < self.pictures]

    @property
    def count(self) -> int:
        """How many vectors the coreset of the pictures taken has."""
        return coreset_size(self.pictures * self._wanted.patches, self._wanted.ratio)

    @property
    def spilled(self) -> bool:
        return any(store.spilled for store in self._stores)

    @property
    def merge(self) -> CoresetMerge | None:
        """How the coreset is merged; None for one pass."""
        return None

    @abstractmethod
    def take(self, patches: NDArray[np.float32]) -> None:
        """Take the patches of the next pictures, float32 [n, patches, d]. Raises MemoryLimitError."""

    @abstractmethod
    def select(self, advance: Advance) -> BankVectors:
        """Choose the coreset of all that was taken; nothing can be taken afterwards."""

    @abstractmethod
    def patches_of(self, number: int) -> NDArray[np.float32]:
        """Return the patches of a picture that calibrates, float32 [patches, d]."""

    def _project(self, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return [n * patches, projected dimension]; by pictures, so that the sparse product's copy is cached."""
        return np.concatenate([self._projection(vectors) for vectors in patches])

    def _open(self, capacity: int, folder: Path | None) -> PatchStore:
        self._stores.append(PatchStore(capacity, self._wanted.dimension, folder))
        return self._stores[-1]

    def _owners(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        return (rows // self._wanted.patches).astype(np.int32)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for store in self._stores:
            store.close()


def open_gathering(wanted: Wanted, limit: MemoryLimit, folder: Path) -> PatchGathering:
    """Return what gathers as `wanted.plan` says, storing vectors in `folder` where `limit` asks for it.

    Raises MemoryLimitError.
    """
    chunk = wanted.plan.chunk_pictures(wanted.pictures, wanted.patches, wanted.ratio)
    return OnePass(wanted, limit, folder) if chunk is None else Merged(wanted, chunk, limit, folder)


class OnePass(PatchGathering):
    """Stores all vectors, and chooses among all their projections at once."""

    def __init__(self, wanted: Wanted, limit: MemoryLimit, folder: Path) -> None:
        super().__init__(wanted)
        total, projected = wanted.pictures * wanted.patches, self._projection.output_dimension
        need = MemoryNeed(
            pictures=wanted.pictures,
            least=_bytes(total, projected + _FLOATS_BESIDE_A_POINT) + _bank_bytes(wanted),
            store=_bytes(total, wanted.dimension),
        )
        self._store = self._open(total, limit.spill_folder(need, folder))
        self._projected = np.empty((total, projected), dtype=np.float32)

    def take(self, patches: NDArray[np.float32]) -> None:
        flat = patches.reshape(-1, self._wanted.dimension)
        self._projected[len(self._store) : len(self._store) + len(flat)] = self._project(patches)
        self._store.append(flat)
        self.pictures += len(patches)

    def select(self, advance: Advance) -> BankVectors:
        points = self._projected[: len(self._store)]
        selected = greedy_k_centre(points, self.count, self._wanted.seed, advance)
        del points, self._projected
        return BankVectors(self._store.gather(selected), self._owners(selected))

    def patches_of(self, number: int) -> NDArray[np.float32]:
        return self._store.read(number * self._wanted.patches, self._wanted.patches)


class Merged(PatchGathering):
    """Holds one chunk of `chunk` pictures at a time, and stores its candidates and the pictures that calibrate."""

    def __init__(self, wanted: Wanted, chunk: int, limit: MemoryLimit, folder: Path) -> None:
        super().__init__(wanted)
        patches, dimension, projected = wanted.patches, wanted.dimension, self._projection.output_dimension
        whole, rest = divmod(wanted.pictures, chunk)
        share = wanted.ratio * wanted.plan.multiple
        candidates = whole * coreset_size(chunk * patches, share) + (coreset_size(rest * patches, share) if rest else 0)
        calibrating = len(wanted.calibrating) * patches
        # The chunk that is filled, and as many pictures waiting for the one before them to be reduced.
        chunks = _bytes(chunk * patches, 2 * dimension + projected + _FLOATS_BESIDE_A_POINT)
        need = MemoryNeed(
            pictures=wanted.pictures,
            least=_bytes(candidates, 2 * projected + _FLOATS_BESIDE_A_POINT) + max(chunks, _bank_bytes(wanted)),
            store=_bytes(candidates + calibrating, dimension),
        )
        spill = limit.spill_folder(need, folder)
        self._candidates = self._open(candidates, spill)
        self._calibration = self._open(calibrating, spill)
        self._calibrating = {number: place for place, number in enumerate(wanted.calibrating)}
        self._coreset = MergedCoreset(wanted.ratio, wanted.plan.multiple, wanted.seed)
        self._rows: list[NDArray[np.int64]] = []
        self._chunk_pictures = chunk
        self._chunk = np.empty((chunk, patches, dimension), dtype=np.float32)
        self._filled = 0
        self.backlog = chunk

    @property
    def merge(self) -> CoresetMerge:
        return CoresetMerge(
            chunk_pictures=self._chunk_pictures, multiple=self._wanted.plan.multiple, candidates=len(self._candidates)
        )

    def take(self, patches: NDArray[np.float32]) -> None:
        while len(patches):
            fitting = patches[: self._chunk_pictures - self._filled]
            self._chunk[self._filled : self._filled + len(fitting)] = fitting
            for number, vectors in enumerate(fitting, self.pictures):
                if number in self._calibrating:
                    self._calibration.append(vectors)
            self._filled += len(fitting)
            self.pictures += len(fitting)
            patches = patches[len(fitting) :]
            if self._filled == self._chunk_pictures:
                self._reduce()

    def _reduce(self) -> None:
        """Let the chunk put its candidates forward, and begin the next."""
        chunk = self._chunk[: self._filled]
        chosen = self._coreset.put_forward(self._project(chunk))
        flat = chunk.reshape(-1, self._wanted.dimension)
        self._candidates.append(flat[chosen])
        self._rows.append(chosen + (self.pictures - self._filled) * self._wanted.patches)
        self._filled = 0

    def select(self, advance: Advance) -> BankVectors:
        if self._filled:
            self._reduce()
        del self._chunk
        selected = self._coreset.select(self.count, advance)
        return BankVectors(self._candidates.gather(selected), self._owners(np.concatenate(self._rows)[selected]))

    def patches_of(self, number: int) -> NDArray[np.float32]:
        return self._calibration.read(self._calibrating[number] * self._wanted.patches, self._wanted.patches)


def _bytes(rows: int, floats: int) -> int:
    return rows * floats * FLOAT_BYTES


def _bank_bytes(wanted: Wanted) -> int:
    """Return what the kept vectors take: they exist twice for a moment, gathered and in the index."""
    return _bytes(2 * coreset_size(wanted.pictures * wanted.patches, wanted.ratio), wanted.dimension)
