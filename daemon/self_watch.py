"""The daemon watches itself and its host: whether work hangs, whether the clock jumped."""

import time
from typing import Final, Literal

import structlog

from daemon.telemetry import Telemetry

log = structlog.get_logger()

# What keeps work that waits from being finished.
Hangs = Literal["engine", "journal"]

# No slewing reaches this between two looks.
CLOCK_STEP_S: Final = 1.0
SAME_MOMENT_NS: Final = 100_000_000
ADVICE: Final = {
    "engine": "systemd's watchdog restarts the daemon; or do it by hand. `npu-smi info` shows if the NPU answers.",
    "journal": "`iostat -x 1` shows whether the journal's disk answers; if it does, restart the daemon.",
}
ONE_CLOCK: Final = (
    "Let chrony or NTP slew the clock. Times in verdicts jump with it; their order and what was judged don't."
)


class SelfWatch:
    """`look` belongs to the main thread, a few times a second."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self.hangs: Hangs | None = None
        self._clock_ns = _clock_ns()

    def look(self, hangs: Hangs | None) -> None:
        """Note what hangs, if anything, and look at the clock."""
        if hangs != self.hangs:
            if hangs is not None:
                log.error("stuck", hangs=hangs, advice=ADVICE[hangs])
            else:
                log.info("going_on", hung=self.hangs)
            self.hangs = hangs
        self._look_at_clock()

    def _look_at_clock(self) -> None:
        clock_ns = _clock_ns()
        if clock_ns is None:
            return
        step_s = (clock_ns - self._clock_ns) / 1e9 if self._clock_ns is not None else 0.0
        self._clock_ns = clock_ns
        if abs(step_s) > CLOCK_STEP_S:
            self._telemetry.clock_steps.inc()
            log.warning("clock_stepped", seconds=round(step_s, 3), advice=ONE_CLOCK)


def _clock_ns() -> int | None:
    """Return by how much the wall clock is ahead of the monotonic one; None when reading them took too long to tell."""
    before_ns, wall_ns, after_ns = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
    return wall_ns - before_ns if after_ns - before_ns < SAME_MOMENT_NS else None
