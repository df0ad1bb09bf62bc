"""An extractor that searches banks on its own device, so that distances leave it instead of patch vectors."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.backbones.bank_on_device import BankOnDevice, SearchGraphs, SearchKind, tensor
from patchcore_engine.backbones.extractor import ExtractorIdentity, ParityBounds
from patchcore_engine.backbones.mindspore_extractor import NetworkExtractor
from patchcore_engine.patch_distances import PatchDistances

if TYPE_CHECKING:
    from patchcore_engine.bank import MemoryBank

# Many times what products in float32 can do to the distance found (`bank_on_device`), and what half precision does.
BOUNDS: Final = ParityBounds(distance=1e-3, score=1e-3)


class DeviceSearchExtractor:
    """A MindSpore extractor and a `DeviceSearcher`; a `SubstituteExtractor` of the same one with the host's search.

    Several banks may be resident; one batch may ask for several.
    """

    def __init__(self, extractor: NetworkExtractor) -> None:
        self._extractor = extractor
        self._patches = extractor.grid[0] * extractor.grid[1]
        self._graphs = SearchGraphs()
        self._banks: WeakKeyDictionary[MemoryBank, BankOnDevice] = WeakKeyDictionary()

    @property
    def identity(self) -> ExtractorIdentity:
        return self._extractor.identity

    @property
    def grid(self) -> tuple[int, int]:
        return self._extractor.grid

    @property
    def dimension(self) -> int:
        return self._extractor.dimension

    @property
    def batch_sizes(self) -> Sequence[int]:
        return self._extractor.batch_sizes

    @property
    def engine(self) -> str:
        return f"mindspore {version('mindspore')}, searching on the device"

    @property
    def parity_bounds(self) -> ParityBounds:
        return BOUNDS

    @property
    def remedy(self) -> str:
        return 'Set search = "faiss", or fit the bank anew on this device.'

    @property
    def resident(self) -> int:
        """How many banks are on the device."""
        return len(self._banks)

    def reference(self) -> NetworkExtractor:
        return self._extractor

    def warm_up(self) -> None:
        self._extractor.warm_up()
        for batch in self.batch_sizes:
            patches = self._zeros(batch)
            for picked in self.batch_sizes:
                if picked <= batch:
                    self._graphs.pick(patches, tensor(np.zeros(picked, np.int32)))

    def release(self) -> None:
        self._banks.clear()
        self._graphs.release()
        self._extractor.release()

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._extractor.embed(images)

    def embed_for_search(self, images: NDArray[np.uint8]) -> "DevicePatches":
        return DevicePatches(self, self._extractor.embed_on_device(images))

    def admit(self, bank: "MemoryBank") -> None:
        # Banks leave in whatever thread they are collected; their graphs only here, in the one that runs graphs.
        own = SearchKind.of(bank.manifest.score_mode, *bank.neighbours.shape)
        self._graphs.keep({own, *(other.kind for other in self._banks.values())})
        resident = self.on_device(bank)
        for size in self.batch_sizes:
            if size <= resident.pictures_at_once:
                resident.search(self._zeros(size))

    def on_device(self, bank: "MemoryBank") -> BankOnDevice:
        """Return `bank` as it lies on the device, uploaded now where it is new."""
        if bank not in self._banks:
            self._banks[bank] = BankOnDevice(
                bank.index.vectors,
                bank.neighbours,
                bank.manifest.score_mode,
                patches=self._patches,
                batch_sizes=self.batch_sizes,
                graphs=self._graphs,
            )
        return self._banks[bank]

    def pick(self, patches: Any, pictures: Sequence[int]) -> Any:
        """Return the patches of these pictures, filled up to the next batch size by the first of them."""
        size = next(size for size in self.batch_sizes if size >= len(pictures))
        positions = np.full(size, pictures[0], np.int32)
        positions[: len(pictures)] = pictures
        whole = size == len(patches) and list(pictures) == list(range(len(pictures)))
        return patches if whole else self._graphs.pick(patches, tensor(positions))

    def _zeros(self, pictures: int) -> Any:
        return tensor(np.zeros((pictures, self._patches, self.dimension), np.float32))


class DevicePatches:
    """`SearchablePatches` that stay on the device, a tensor float32 [batch size, patches, d]."""

    def __init__(self, extractor: DeviceSearchExtractor, patches: Any) -> None:
        self._extractor = extractor
        self._patches = patches

    def search(self, bank: "MemoryBank", pictures: Sequence[int]) -> PatchDistances:
        resident = self._extractor.on_device(bank)
        step = resident.pictures_at_once
        parts = [pictures[start : start + step] for start in range(0, len(pictures), step)]
        # All parts are started before the first is waited for.
        started = [resident.search(self._extractor.pick(self._patches, part)) for part in parts]
        found = [[array.asnumpy()[: len(part)] for array in own] for own, part in zip(started, parts, strict=True)]
        return PatchDistances(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))
