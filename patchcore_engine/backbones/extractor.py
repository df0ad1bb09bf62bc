"""The interface every feature extractor fulfils: prepared pictures in, patch vectors out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.patch_distances import PatchDistances

if TYPE_CHECKING:
    from patchcore_engine.bank import MemoryBank

EmbeddingMode = Literal["paper", "modelzoo"]
Engine = Literal["mindspore", "openvino"]
PrecisionHint = Literal["auto", "float32", "bfloat16"]
Search = Literal["faiss", "device"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractorIdentity:
    """What decides an extractor's output; a bank stores it and refuses any other.

    `weights_digest`: SHA-256 (hex) over the named tensors, the same for a `.pth` file, a converted checkpoint and an
    exported MindIR of the same weights.
    """

    backbone: str
    weights_digest: str
    embedding: EmbeddingMode
    image_size: int
    precision: Literal["float32", "float16"]


class FeatureExtractor(Protocol):
    """Turns prepared pictures into locally aware patch vectors (PatchCore, section 3.1).

    One thread at a time may call `embed`; the call releases the GIL while it computes.
    """

    @property
    def identity(self) -> ExtractorIdentity: ...

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across one picture."""
        ...

    @property
    def dimension(self) -> int:
        """Length of one patch vector."""
        ...

    @property
    def batch_sizes(self) -> Sequence[int]:
        """The compiled batch sizes, ascending; a smaller batch is padded up to the next."""
        ...

    def warm_up(self) -> None:
        """Compile every batch size and run each once."""
        ...

    def release(self) -> None:
        """Give back what was compiled, without harm to other extractors; for one that isn't needed any more.

        The thread that calls `embed` calls it. Whatever is embedded afterwards is compiled anew.
        """
        ...

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return patches float32 [n, grid_h * grid_w, dimension], row-major over the grid.

        `images`: uint8 [n, image_size, image_size, 3], RGB; 1 <= n <= max(batch_sizes).
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityBounds:
    """How far another engine may deviate from the reference, as shares of the value, or of the threshold above it.

    `distance`: each patch distance.  `score`: each image score.
    """

    distance: float
    score: float


@runtime_checkable
class SubstituteExtractor(FeatureExtractor, Protocol):
    """An extractor that tells the identity of the one it stands in for, and computes otherwise.

    It serves a bank only after a parity check (`patchcore_engine.parity`).
    """

    @property
    def engine(self) -> str:
        """The library, its version and what is special about it; for people and logs."""
        ...

    @property
    def parity_bounds(self) -> ParityBounds: ...

    @property
    def remedy(self) -> str:
        """A sentence: which settings to change where a bank refuses this extractor."""
        ...

    def reference(self) -> FeatureExtractor:
        """Open the extractor that this one stands in for."""
        ...


class SearchablePatches(Protocol):
    """The patch vectors of one batch, wherever they are."""

    def search(self, bank: "MemoryBank", pictures: Sequence[int]) -> PatchDistances:
        """Search `bank` for these pictures of the batch, by their positions in it."""
        ...


@runtime_checkable
class DeviceSearcher(Protocol):
    """What an extractor has that searches banks where it computes, so that patch vectors needn't leave the device.

    The thread that calls `embed` calls these, too.
    """

    def admit(self, bank: "MemoryBank") -> None:
        """Put `bank` on the device and compile its search for every batch size; it leaves when it is collected."""
        ...

    def embed_for_search(self, images: NDArray[np.uint8]) -> SearchablePatches:
        """Embed `images` as `FeatureExtractor.embed` does, and keep the patches on the device."""
        ...
