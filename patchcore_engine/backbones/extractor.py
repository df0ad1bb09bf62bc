"""The interface every feature extractor fulfils: prepared pictures in, patch vectors out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

EmbeddingMode = Literal["paper", "modelzoo"]
Engine = Literal["mindspore", "openvino"]
PrecisionHint = Literal["auto", "float32", "bfloat16"]


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
    """An extractor of another engine that tells the identity of the one it stands in for.

    It serves a bank only after a parity check (`patchcore_engine.parity`).
    """

    @property
    def engine(self) -> str:
        """The library, its version and the precision it computes in; for people and logs."""
        ...

    @property
    def parity_bounds(self) -> ParityBounds: ...

    def reference(self) -> FeatureExtractor:
        """Open the extractor that this one stands in for."""
        ...
