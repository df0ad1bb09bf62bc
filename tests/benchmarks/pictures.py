"""Patches of real pictures, for the benchmarks whose speed depends on how patches lie."""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.backbones.factory import open_extractor
from patchcore_engine.backbones.registry import backbone_spec
from patchcore_engine.images import list_pictures
from patchcore_engine.picture_reader import PictureReader

# Each with the weights that are at hand everywhere: published ones only where a package brings them.
_WEIGHTS: Final = {"wide_resnet50_2": "random:0", "efficientnet_lite0": None}
BACKBONES: Final = tuple(_WEIGHTS)


def patches_of(folder: Path, backbone: str) -> NDArray[np.float32]:
    """Return the patches of all pictures in `folder`, float32 [pictures, patches, d]."""
    extractor = open_extractor(backbone=backbone, weights=_WEIGHTS.get(backbone, "random:0"))
    reader = PictureReader(list_pictures(folder), backbone_spec(backbone).geometry, skip_unreadable=False)
    batches = reader.batches(max(extractor.batch_sizes))
    return np.concatenate([extractor.embed(np.stack([picture.pixels for picture in batch])) for batch in batches])
