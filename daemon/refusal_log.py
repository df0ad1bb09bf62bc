"""Tells the log of parts that were not inspected: one line per reason now and again, with what to do."""

from typing import Final

import structlog

from daemon.advice import ADVICE
from daemon.log_limit import LogLimit
from daemon.messages import Verdict
from daemon.outcomes import Reason

log = structlog.get_logger()

# Told where they arise: the queue says that it sheds, and the daemon's end how many parts it cut off.
TOLD_ELSEWHERE: Final = frozenset({Reason.SHED, Reason.SHUTTING_DOWN})


class RefusalLog:
    """For verdicts as they leave."""

    def __init__(self) -> None:
        self._limits = {reason: LogLimit() for reason in Reason if reason not in TOLD_ELSEWHERE}

    def tell(self, verdict: Verdict) -> None:
        """Note a verdict; one that was inspected is none of this log's."""
        reason = verdict.reason
        if reason is None or reason in TOLD_ELSEWHERE:
            return
        if (held_back := self._limits[reason].due(verdict.count)) is not None:
            log.warning(
                "not_inspected",
                reason=reason.value,
                camera=verdict.camera,
                seq=verdict.seq,
                count=verdict.count,
                held_back=held_back,
                detail=verdict.detail,
                advice=ADVICE[reason],
            )
