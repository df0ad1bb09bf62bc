"""What a sender tells of a daemon that refuses it again and again."""

import logging
from collections.abc import Callable
from typing import Final

from daemon.file_names import printable
from daemon.log_limit import LogLimit

# One comes with each restart of the daemon, and ends nothing but a session.
RESETS_TOLD: Final = 3

_logger = logging.getLogger(__name__)


class RepeatedResets:
    """Tells `on_refused(reason)` of the third RESET in a row, and of one in ten seconds while the row goes on.

    Without `on_refused` it is a warning in Python's own log. `whose`: the words for the sender there.
    """

    def __init__(self, whose: str, on_refused: Callable[[str], None] | None) -> None:
        self.reason: str | None = None
        self._on_refused = on_refused if on_refused is not None else self._warn
        self._whose = whose
        self._row = 0
        self._limit = LogLimit()

    def note(self, reason: str) -> None:
        """Count one RESET."""
        self._row += 1
        if self._row < RESETS_TOLD:
            return
        self.reason = printable(reason)
        if self._limit.due() is not None:
            self._on_refused(self.reason)

    def end(self) -> None:
        """Begin anew: the daemon has acknowledged a frame."""
        self._row, self.reason = 0, None

    def _warn(self, reason: str) -> None:
        _logger.warning("%s is refused again and again, its frames wait: %s", self._whose, reason)
