"""Keeps a trouble that goes on from filling the log: one line of its kind now and then, with the count of the rest."""

import threading
import time
from typing import Final

INTERVAL_S: Final = 10.0


class LogLimit:
    """Says whether the next line of one kind is due: the first at once, then one each `interval_s`. Thread-safe."""

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self._interval_ns = int(interval_s * 1e9)
        self._lock = threading.Lock()
        self._due_ns = 0
        self._held_back = 0

    def due(self, times: int = 1) -> int | None:
        """Return how many were held back since the last line, if one is due now; else hold these `times` back: None."""
        now_ns = time.monotonic_ns()
        with self._lock:
            if now_ns < self._due_ns:
                self._held_back += times
                return None
            self._due_ns = now_ns + self._interval_ns
            held_back, self._held_back = self._held_back, 0
        return held_back
