"""Keeps pictures of parts on a thread of its own. It may lag, and then it drops: no verdict ever waits for it."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import structlog

from daemon.archive_folder import ArchivedPart, ArchiveFolder
from daemon.config import ArchiveSettings
from daemon.errors import ArchiveError
from daemon.messages import FrameHeader, Verdict
from daemon.outcomes import Outcome
from daemon.retention import Retention

log = structlog.get_logger()

TIDY_S: Final = 60.0
# While it drops, it says so once in this time, with the number since.
DROPS_LOGGED_S: Final = 10.0
CLOSE_S: Final = 5.0
MEND: Final = "Look at the disk of archive.dir: full, slow or read-only. Verdicts are not affected."


class Archive:
    """Archives every part that fails or needs a review, and every n-th that passes.

    `on_written` and `on_dropped` are called once a part, on any thread. Thread-safe.
    """

    def __init__(
        self,
        settings: ArchiveSettings,
        *,
        on_written: Callable[[], object] = lambda: None,
        on_dropped: Callable[[], object] = lambda: None,
    ) -> None:
        self._settings = settings
        self._on_written = on_written
        self._on_dropped = on_dropped
        retention = Retention(max_age_days=settings.max_age_days, max_bytes=settings.max_bytes)
        self._folder = ArchiveFolder(settings.dir, retention)
        self._changed = threading.Condition()
        self._waiting: deque[tuple[int, ArchivedPart]] = deque()
        self._waiting_bytes = 0
        self._writing_since_ns: int | None = None
        self._passes = 0
        self._closing = False
        self._unlogged_drops = 0
        self._logged_ns: int | None = None
        self._thread = threading.Thread(target=self._run, name="archive", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Parts that wait to be written."""
        return len(self._waiting)

    @property
    def lag_s(self) -> float:
        """How long the oldest part that isn't written yet has waited; 0 if none waits."""
        with self._changed:
            oldest_ns = self._writing_since_ns
            if oldest_ns is None:
                oldest_ns = self._waiting[0][0] if self._waiting else None
        return (time.monotonic_ns() - oldest_ns) / 1e9 if oldest_ns is not None else 0.0

    @property
    def size_bytes(self) -> int:
        """Size of the archive as far as it is known."""
        return self._folder.size_bytes

    def offer(
        self, verdict: Verdict, header: FrameHeader, payload: memoryview, overlay: Callable[[], bytes] | None
    ) -> None:
        """Keep a part if it is to be kept, or drop it and count that. Never waits for the disk.

        `payload`: the frame as received. `overlay` returns a PNG; it is called on the archive's thread.
        """
        with self._changed:
            if not self._is_kept(verdict):
                return
            full = len(self._waiting) >= self._settings.queue or (
                self._waiting and self._waiting_bytes + payload.nbytes > self._settings.queue_bytes
            )
            if not full and not self._closing:
                part = ArchivedPart(verdict=verdict, header=header, payload=payload, overlay=overlay)
                self._waiting.append((time.monotonic_ns(), part))
                self._waiting_bytes += payload.nbytes
                self._changed.notify_all()
                return
        self._drop("The archive's disk is slower than the line: its queue is full.")

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Write what waits within `timeout_s`, and drop the rest. A disk that hangs is left behind."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        with self._changed:
            left = len(self._waiting)
            self._waiting.clear()
        for _ in range(left):
            self._drop("The daemon stopped before all parts were archived.")
        self._log_drops("The daemon stopped.")

    def _is_kept(self, verdict: Verdict) -> bool:
        if verdict.verdict is Outcome.PASS and self._settings.every_nth_pass:
            self._passes += 1
            return self._passes % self._settings.every_nth_pass == 0
        return verdict.verdict in (Outcome.FAIL, Outcome.REVIEW)

    def _run(self) -> None:
        tidy_at_ns = 0
        while True:
            part = self._take((tidy_at_ns - time.monotonic_ns()) / 1e9)
            if part is not None:
                self._write(part)
            elif self._closing:
                return
            if time.monotonic_ns() >= tidy_at_ns and not self._closing and not self._tidy():
                tidy_at_ns = time.monotonic_ns() + int(TIDY_S * 1e9)

    def _take(self, timeout_s: float) -> ArchivedPart | None:
        with self._changed:
            self._writing_since_ns = None
            self._changed.wait_for(lambda: self._waiting or self._closing, max(timeout_s, 0))
            if not self._waiting:
                return None
            self._writing_since_ns, part = self._waiting.popleft()
            self._waiting_bytes -= part.payload.nbytes
            return part

    def _write(self, part: ArchivedPart) -> None:
        try:
            self._folder.write(part)
        except ArchiveError as error:
            self._drop(str(error))
        else:
            self._on_written()

    def _tidy(self) -> bool:
        """Return whether more is due at once."""
        try:
            return self._folder.tidy(time.time_ns())
        except ArchiveError as error:
            log.warning("archive_not_tidied", error=str(error), advice=MEND)
            return False

    def _drop(self, why: str) -> None:
        self._on_dropped()
        now_ns = time.monotonic_ns()
        with self._changed:
            self._unlogged_drops += 1
            due = self._logged_ns is None or now_ns - self._logged_ns >= DROPS_LOGGED_S * 1e9
            if due:
                self._logged_ns = now_ns
        if due:
            self._log_drops(why)

    def _log_drops(self, why: str) -> None:
        with self._changed:
            parts, self._unlogged_drops = self._unlogged_drops, 0
        if parts:
            log.warning("archive_dropped", parts=parts, error=why, advice=MEND)
