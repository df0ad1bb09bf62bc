"""How much memory an extractor and a bank take, from a bank's files and manifest alone: nothing is loaded for it.

The factors are upper bounds of what was measured with every shipped backbone; docs/reliability.md has the figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Final

from patchcore_engine import MAX_IMAGE_PIXELS
from patchcore_engine.backbones.architecture import EfficientNetLite
from patchcore_engine.backbones.bank_sizes import filled_up, pictures_at_once, product_bytes
from patchcore_engine.backbones.extractor import Engine
from patchcore_engine.backbones.registry import backbone_spec
from patchcore_engine.backbones.sleeping import NAME as SLEEPING
from patchcore_engine.bank import INDEX, MANIFEST
from patchcore_engine.errors import BankMissingError
from patchcore_engine.manifest import Manifest

# The interpreter and every library that the daemon imports: 484 MiB with MindSpore.
PROCESS_BYTES: Final = 512 * 2**20
# A 16-bit colour picture takes 6 bytes a pixel decoded and 3 at 8 bits, a progressive JPEG 9 while it is decoded, and
# bringing it to RGB 3 more.
DECODING_BYTES: Final = 12 * MAX_IMAGE_PIXELS
# Loading a bank holds its files beside the index, and a centred copy of the vectors while the proofs are made.
LOADING_COPIES: Final = 2
_BANK_OVERHEAD: Final = 1.1
_FLOAT_BYTES: Final = 4
# Patches as they leave the network, as the search takes them, and on their way between the two.
_PATCH_COPIES: Final = 3
# `nearest` keeps one block of products per searching thread and kind of search.
_SEARCH_BYTES: Final = 64 * 2**20
# With search = "device" on a CPU: what uploading a bank takes, in banks, and what each compiled graph keeps of its
# product and of its patches. On an NPU all this is the device's.
_UPLOADED_COPIES: Final = 8
_PRODUCT_COPIES: Final = 5
_GRAPH_PATCH_COPIES: Final = 14


@dataclass(frozen=True, slots=True)
class _EngineFactors:
    """Bytes of an opened and warmed-up extractor: `fixed`, `weight` for each byte of its weights, and for each pixel of
    each picture of each compiled batch size `resnet` or `efficientnet`."""

    fixed: int
    weight: float
    resnet: int
    efficientnet: int


_FACTORS: Final[dict[Engine, _EngineFactors]] = {
    "mindspore": _EngineFactors(fixed=64 * 2**20, weight=4.5, resnet=480, efficientnet=260),
    "openvino": _EngineFactors(fixed=320 * 2**20, weight=8, resnet=700, efficientnet=120),
}


@dataclass(frozen=True, slots=True)
class BankFootprint:
    """A bank's manifest, the bytes it takes once loaded, and those that loading it takes on top for a moment."""

    manifest: Manifest
    resident: int
    loading: int


def bank_footprint(folder: Path) -> BankFootprint:
    """Look at one version's folder without loading it. Raises BankMissingError and BankDamagedError."""
    try:
        manifest = Manifest.parse((folder / MANIFEST).read_bytes())
        files = sum((folder / name).stat().st_size for name in {INDEX, *manifest.files})
    except OSError as error:
        raise BankMissingError(f"{folder} holds no memory bank: {error.filename} can't be read.") from error
    proofs = _FLOAT_BYTES * manifest.vectors * ((manifest.index_projected or 0) + 4)
    return BankFootprint(manifest, int(_BANK_OVERHEAD * (files + proofs)), LOADING_COPIES * files)


def extractor_bytes(manifest: Manifest, batch_sizes: Sequence[int], engine: Engine) -> int:
    """Return what the extractor that `manifest` asks for takes on a CPU, every batch size compiled."""
    if manifest.backbone == SLEEPING:
        return 0
    spec, factors = backbone_spec(manifest.backbone), _FACTORS[engine]
    weights = _FLOAT_BYTES * sum(prod(shape) for shape in spec.tensors.values())
    each = factors.efficientnet if isinstance(spec.architecture, EfficientNetLite) else factors.resnet
    return int(factors.fixed + factors.weight * weights + each * sum(batch_sizes) * manifest.image_size**2)


def search_bytes(manifest: Manifest, batch: int) -> int:
    """Return what searching the patches of `batch` pictures takes beside the bank."""
    patches = batch * manifest.grid[0] * manifest.grid[1]
    return _PATCH_COPIES * _FLOAT_BYTES * patches * manifest.dimension + _SEARCH_BYTES


def bank_on_device_bytes(manifest: Manifest) -> int:
    """Return what a bank takes on the device, where that is the CPU."""
    row = manifest.dimension + manifest.n_neighbors + 1
    return _UPLOADED_COPIES * _FLOAT_BYTES * filled_up(manifest.vectors) * row


def device_search_bytes(manifest: Manifest, batch_sizes: Sequence[int]) -> int:
    """Return what the compiled searches of all banks of this one's size take on the device, where that is the CPU."""
    patches = manifest.grid[0] * manifest.grid[1]
    largest = pictures_at_once(manifest.vectors, patches, batch_sizes)
    return sum(
        _PRODUCT_COPIES * product_bytes(manifest.vectors, patches, size)
        + _GRAPH_PATCH_COPIES * _FLOAT_BYTES * size * patches * manifest.dimension
        for size in batch_sizes
        if size <= largest
    )
