"""What the engine can do at present, and what went wrong with it: counted, and told in the log with what to do."""

from typing import Final

import numpy as np
import structlog

from daemon.log_limit import LogLimit
from daemon.telemetry import Telemetry
from patchcore_engine.backbones.extractor import ExtractorIdentity, FeatureExtractor
from patchcore_engine.device_memory import is_out_of_memory
from patchcore_engine.errors import DeviceError

log = structlog.get_logger()

LOOK: Final = "Run `patchline doctor`: it checks device, weights and banks. Restart the daemon if the device was reset."
MAKE_ROOM: Final = "Free the device's memory and reload (SIGHUP), or take large sizes out of engine.batch_sizes."


class EngineHealth:
    """For the engine thread. `largest`: of engine.batch_sizes.

    A batch that doesn't fit into the device's memory is done in smaller ones, and so are all after it.
    """

    def __init__(self, telemetry: Telemetry, largest: int) -> None:
        self.telemetry = telemetry
        self._largest = largest
        self._limits: dict[ExtractorIdentity, int] = {}
        self._failed = LogLimit()
        self._gave_no_number = LogLimit()
        self.forget_limits()

    def largest_batch(self, extractor: FeatureExtractor) -> int:
        """Return how many pictures `extractor` takes at once."""
        return self._limits.get(extractor.identity, max(extractor.batch_sizes))

    def ran_out_of_memory(self, extractor: FeatureExtractor, pictures: int, error: Exception) -> bool:
        """Note that a batch of `pictures` didn't fit; False when there is no smaller one to try."""
        self.telemetry.engine_out_of_memory.inc()
        padded = min((size for size in extractor.batch_sizes if size >= pictures), default=pictures)
        smaller = max((size for size in extractor.batch_sizes if size < padded), default=0)
        if not smaller:
            return False
        self._limits[extractor.identity] = smaller
        self.telemetry.engine_batch_limit.set(min(self._limits.values()))
        log.error("engine_out_of_memory", batch=padded, limit=smaller, error=_first_line(error), advice=MAKE_ROOM)
        return True

    def forget_limits(self) -> None:
        """Try large batches again."""
        self._limits.clear()
        self.telemetry.engine_batch_limit.set(self._largest)

    def warm_up(self, extractor: FeatureExtractor) -> None:
        """Compile every batch size, or those that fit. Raises DeviceError when none does."""
        try:
            extractor.warm_up()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._find_what_fits(extractor)

    def failed(self, error: Exception) -> None:
        """Note that a batch raised."""
        self.telemetry.engine_errors.inc()
        if (held_back := self._failed.due()) is not None:
            advice = MAKE_ROOM if is_out_of_memory(error) else LOOK
            log.error("engine_failed", error=_first_line(error), held_back=held_back, advice=advice, exc_info=error)

    def gave_no_number(self, pictures: int) -> None:
        """Note that so many pictures of a batch got no finite score."""
        self.telemetry.engine_not_finite.inc(pictures)
        if (held_back := self._gave_no_number.due(pictures)) is not None:
            log.error("engine_gave_no_number", pictures=pictures, held_back=held_back, advice=LOOK)

    def _find_what_fits(self, extractor: FeatureExtractor) -> None:
        side = extractor.identity.image_size
        for size in sorted(extractor.batch_sizes):
            try:
                extractor.embed(np.zeros((size, side, side, 3), np.uint8))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if not self.ran_out_of_memory(extractor, size, error):
                    raise DeviceError(
                        f"The device's memory doesn't hold a batch of {size}. Free it, or take a smaller backbone."
                    ) from error
                return


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0][:500]
