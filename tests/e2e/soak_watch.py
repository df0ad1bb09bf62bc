"""What is watched during a soak: every verdict by a controller, and the daemon's memory, descriptors and threads."""

import threading
import time
from array import array
from collections import Counter
from collections.abc import Sequence

import psutil
import zmq

from daemon.client import VerdictStream
from daemon.messages import Verdict
from daemon.outcomes import Outcome
from tests.e2e.soak_traffic import PATIENCE_S, Shift

WAIT_S = 0.2
SAMPLE_S = 1.0


class Controller(Shift):
    """Reads every verdict once and in order; one with `reconnect_s` closes its stream that often, and goes on."""

    def __init__(self, verdicts: str, replay: str, *, reconnect_s: float | None = None) -> None:
        super().__init__("controller", 0.0)
        self._addresses = verdicts, replay
        self._reconnect_s = reconnect_s
        self._stream = VerdictStream(verdicts, replay, from_offset=0)
        self._opened = time.monotonic()
        self._progress = threading.Condition()
        self.reconnects = 0
        self.heard = 0
        self.out_of_order = 0
        self.banks: Counter[str] = Counter()
        # Of each judged part: when it was heard, monotonic seconds, and how long after its capture, milliseconds.
        self.heard_s, self.latency_ms = array("d"), array("d")

    def step(self, number: int) -> None:
        if self._reconnect_s is not None and time.monotonic() - self._opened > self._reconnect_s:
            self._stream.close()
            self._stream = VerdictStream(*self._addresses, from_offset=self.heard)
            self._opened = time.monotonic()
            self.reconnects += 1
        verdict = self._stream.next(WAIT_S)
        if verdict is not None:
            self._note(verdict)

    def leave(self) -> None:
        self._stream.close()

    def wait_for(self, verdicts: int) -> None:
        """Wait until so many were heard; silence for PATIENCE_S is the account's to report."""
        with self._progress:
            while self.heard < verdicts and self._progress.wait(PATIENCE_S):
                pass

    def _note(self, verdict: Verdict) -> None:
        self.out_of_order += verdict.offset != self.heard
        with self._progress:
            self.heard += 1
            self._progress.notify_all()
        if verdict.verdict is not Outcome.NOT_INSPECTED:
            self.banks[str(verdict.bank)] += 1
            self.heard_s.append(time.monotonic())
            self.latency_ms.append((time.time_ns() - verdict.captured_ns) / 1e6)


class Sleeper:
    """A subscriber to everything that never reads."""

    def __init__(self, verdicts: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.linger = 0
        self._socket.subscribe(b"")
        self._socket.connect(verdicts)

    def close(self) -> None:
        self._socket.close()
        self._context.term()


class Gauges(Shift):
    """Samples of the daemon's process, one every SAMPLE_S."""

    def __init__(self, pid: int) -> None:
        super().__init__("gauges", SAMPLE_S)
        self._process = psutil.Process(pid)
        self.seconds, self.rss_mib, self.descriptors, self.threads = array("d"), array("d"), array("d"), array("d")

    def step(self, number: int) -> None:
        self.seconds.append(time.monotonic())
        self.rss_mib.append(self._process.memory_info().rss / 2**20)
        self.descriptors.append(self._process.num_fds())
        self.threads.append(self._process.num_threads())

    @property
    def processor_s(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system

    def series(self) -> dict[str, Sequence[float]]:
        return {"rss_mib": self.rss_mib, "descriptors": self.descriptors, "threads": self.threads}
