"""The patch vectors of one batch in the host's memory, and the one way to embed a batch that is to be searched."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.backbones.extractor import DeviceSearcher, FeatureExtractor, SearchablePatches
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
    if isinstance(extractor, DeviceSearcher):
        return extractor.embed_for_search(images)
    return HostPatches(extractor.embed(images))
