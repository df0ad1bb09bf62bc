"""The patch vectors of one batch in the host's memory, and the one way to embed a batch that is to be searched."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.backbones.extractor import FeatureExtractor, SearchablePatches
from patchcore_engine.bank import MemoryBank
from patchcore_engine.patch_distances import PatchDistances


class HostPatches:
    """`SearchablePatches` that the bank's own index searches. `patches`: float32 [n, patches, d]."""

    def __init__(self, patches: NDArray[np.float32]) -> None:
        self._patches = patches

    def search(self, bank: MemoryBank, pictures: Sequence[int]) -> PatchDistances:
        everything = len(pictures) == len(self._patches)
        return bank.search(self._patches if everything else self._patches[list(pictures)])


def embed_for_search(extractor: FeatureExtractor, images: NDArray[np.uint8]) -> SearchablePatches:
    """Embed prepared pictures, uint8 [n, s, s, 3], where the extractor keeps them."""
    # A `DeviceSearcher`, asked by its method: isinstance of a protocol takes 10 us of every batch.
    keep: Callable[[NDArray[np.uint8]], SearchablePatches] | None = getattr(extractor, "embed_for_search", None)
    return HostPatches(extractor.embed(images)) if keep is None else keep(images)
