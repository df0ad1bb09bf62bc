"""A sleeping extractor that fails as it is told: it rehearses a broken device, a driver that hangs, a slow host."""

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.backbones.faults import Fault
from patchcore_engine.backbones.sleeping import SleepingExtractor


class FailingExtractor(SleepingExtractor):
    """Plays `faults`. Batches are counted from the first, the trial inspections of a start among them."""

    def __init__(
        self,
        *,
        faults: Sequence[Fault],
        image_size: int = 64,
        grid: int = 8,
        dimension: int = 8,
        batch_sizes: Sequence[int] = (1, 2, 4, 8),
        seconds_per_batch: float = 0.0,
    ) -> None:
        super().__init__(
            image_size=image_size,
            grid=grid,
            dimension=dimension,
            batch_sizes=batch_sizes,
            seconds_per_batch=seconds_per_batch,
        )
        self._faults = tuple(faults)
        self._batches = 0

    def warm_up(self) -> None:
        """Raises RuntimeError when the largest batch doesn't fit from the beginning."""
        self._check_memory(max(self.batch_sizes), [fault for fault in self._faults if fault.strikes(0)])

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As `SleepingExtractor.embed`, or with what the plan has for this batch. Raises RuntimeError where it says."""
        due = [fault for fault in self._faults if fault.strikes(self._batches)]
        self._batches += 1
        self._check_memory(len(images), due)
        for fault in due:
            if fault.kind == "raise":
                raise RuntimeError("The device was lost (a rehearsed fault).")
            if fault.kind == "hang":
                time.sleep(fault.seconds)
            elif fault.kind == "slow":
                time.sleep(self.seconds_per_batch * (fault.factor - 1))
        patches = super().embed(images)
        if any(fault.kind == "nan" for fault in due):
            patches[:] = np.nan
        return patches

    def _check_memory(self, pictures: int, due: Sequence[Fault]) -> None:
        if any(fault.kind == "out_of_memory" and pictures > fault.fits for fault in due):
            raise RuntimeError(f"Memory not enough: a batch of {pictures} doesn't fit (a rehearsed fault).")
