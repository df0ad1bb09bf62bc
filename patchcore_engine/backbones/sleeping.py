"""A feature extractor that sleeps instead of computing: it stands in for an NPU in tests, benchmarks and rehearsals.

Its patch vectors are real, if weak, features (the mean colour of each cell), so that a bank fitted with it tells a
bright blob from a plain part.
"""

import time
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from patchcore_engine.backbones.extractor import ExtractorIdentity

NAME = "sleeping"


class SleepingExtractor:
    """Sleeps `seconds_per_batch` for each batch, releasing the GIL as a device call does.

    `dimension` >= 3: the first three entries of a patch vector are the cell's mean RGB, the others are zero.
    """

    def __init__(
        self,
        *,
        image_size: int = 64,
        grid: int = 8,
        dimension: int = 8,
        batch_sizes: Sequence[int] = (1, 2, 4, 8),
        seconds_per_batch: float = 0.0,
    ) -> None:
        self._image_size = image_size
        self._grid = grid
        self._dimension = dimension
        self._batch_sizes = tuple(sorted(batch_sizes))
        self.seconds_per_batch = seconds_per_batch

    @property
    def identity(self) -> ExtractorIdentity:
        return ExtractorIdentity(
            backbone=NAME,
            weights_digest="0" * 64,
            embedding="paper",
            image_size=self._image_size,
            precision="float32",
        )

    @property
    def grid(self) -> tuple[int, int]:
        return self._grid, self._grid

    @property
    def dimension(self) -> int:
        return self._dimension

    @property
    def batch_sizes(self) -> Sequence[int]:
        return self._batch_sizes

    def warm_up(self) -> None:
        """Nothing to compile."""

    def release(self) -> None:
        """Nothing to give back."""

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return patches float32 [n, grid * grid, dimension]."""
        time.sleep(self.seconds_per_batch)
        patches = np.zeros((len(images), self._grid**2, self._dimension), dtype=np.float32)
        for vectors, image in zip(patches, images, strict=True):
            cells = cv2.resize(image, (self._grid, self._grid), interpolation=cv2.INTER_AREA)
            vectors[:, :3] = cells.reshape(-1, 3)
        return patches
