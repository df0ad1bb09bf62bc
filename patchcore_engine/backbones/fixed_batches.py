"""What every extractor with compiled batch sizes shares: padding up, and answers cut back."""

import bisect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.backbones.extractor import ExtractorIdentity
from patchcore_engine.errors import GeometryError

BATCH_SIZES: Final = (1, 2, 4, 8)


class FixedBatchExtractor(ABC):
    """A `FeatureExtractor` whose network takes certain batch sizes only; a smaller batch is padded up to the next."""

    def __init__(
        self, identity: ExtractorIdentity, *, grid: tuple[int, int], dimension: int, batch_sizes: Sequence[int]
    ) -> None:
        if not batch_sizes or min(batch_sizes) < 1:
            raise GeometryError(f"Batch sizes must be 1 or more, not {list(batch_sizes)}.")
        self._identity = identity
        self._grid = grid
        self._dimension = dimension
        self._batch_sizes = tuple(sorted(set(batch_sizes)))

    @property
    def identity(self) -> ExtractorIdentity:
        return self._identity

    @property
    def grid(self) -> tuple[int, int]:
        return self._grid

    @property
    def dimension(self) -> int:
        return self._dimension

    @property
    def batch_sizes(self) -> Sequence[int]:
        return self._batch_sizes

    def warm_up(self) -> None:
        side = self._identity.image_size
        for size in self._batch_sizes:
            self.embed(np.zeros((size, side, side, 3), np.uint8))

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        padded = pad_batch(images, self._batch_sizes, self._identity.image_size)
        return self._run(padded)[: len(images)]

    @abstractmethod
    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the network on one of the batch sizes."""


def pad_batch(images: NDArray[np.uint8], batch_sizes: Sequence[int], image_size: int) -> NDArray[np.uint8]:
    """Return `images` filled up with black ones to the next of `batch_sizes` (ascending).

    Raises GeometryError where the shape or the dtype isn't what the network was compiled for.
    """
    expected = (image_size, image_size, 3)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected:
        raise GeometryError(
            f"The backbone takes uint8 pictures [n, {image_size}, {image_size}, 3], not {images.dtype} "
            f"{list(images.shape)}."
        )
    n = len(images)
    if not 1 <= n <= batch_sizes[-1]:
        raise GeometryError(f"The backbone takes 1 to {batch_sizes[-1]} pictures at once, not {n}.")
    size = batch_sizes[bisect.bisect_left(batch_sizes, n)]
    if size == n:
        return np.ascontiguousarray(images)
    padded = np.zeros((size, *expected), np.uint8)
    padded[:n] = images
    return padded
