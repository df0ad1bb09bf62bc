"""The batch that is decoded while the engine works: it grows until the engine takes it."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from daemon.inspection import DecodedFrame


@dataclass(frozen=True, slots=True)
class Job:
    """Something for the engine thread to do between two batches."""

    call: Callable[[], None]
    done: "Future[Exception | None]"


class Prefetch:
    """Holds up to `largest` decoded frames, and jobs, for the engine thread. Thread-safe; waits, never polls."""

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._changed = threading.Condition()
        self._frames: list[DecodedFrame] = []
        self._jobs: deque[Job] = deque()
        self._jobs_after_batch: list[Job] = []
        self._closed = False

    def wait_for_room(self) -> int:
        """Wait until the batch isn't full and return how many frames it has room for."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._frames) < self._largest)
            return self._largest - len(self._frames)

    def add(self, frames: Sequence[DecodedFrame]) -> None:
        """Let `frames` join the batch; there must be room for them."""
        with self._changed:
            self._frames.extend(frames)
            self._changed.notify_all()

    def add_job(self, job: Job, *, after_batch: bool = False) -> None:
        """Let `job` be done before the next batch, or right after it with all frames that are decoded by now."""
        with self._changed:
            if after_batch and self._frames:
                self._jobs_after_batch.append(job)
            else:
                self._jobs.append(job)
            self._changed.notify_all()

    def close(self) -> None:
        """Let `take` return None once everything was taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self) -> list[DecodedFrame] | Job | None:
        """Wait for work and take a job, or all frames decoded by now; None once closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._frames or self._closed)
            if self._jobs:
                return self._jobs.popleft()
            frames, self._frames = self._frames, []
            self._jobs.extend(self._jobs_after_batch)
            self._jobs_after_batch.clear()
            self._changed.notify_all()
            return frames or None
