"""Overload: pushed frames come at three times the engine's rate; each must be accounted for, in flat memory."""

import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from daemon.client import PushCamera, VerdictStream
from daemon.journal_file import CACHE_KIB
from daemon.messages import Verdict
from daemon.outcomes import Outcome
from tests.daemon.conftest import DaemonProcess, good_part, write_config
from tests.e2e.account import Account, Part

SLEEP_MS = 40.0
BATCH = 4
ENGINE_RATE = 1000 * BATCH / SLEEP_MS
OVERLOAD = 3.0
MAX_AGE_MS = 500
CAMERAS = ("cam1", "cam2")
RSS_INTERVAL_S = 0.25
# SQLite's page cache fills and stays so; the rest is the allocator's breathing. A minute of leaked frames is more.
ROOM_MIB = CACHE_KIB / 1024 + 12.0
PATIENCE_S = 60.0
SETTINGS = f"""
[engine]
sleep_ms = {SLEEP_MS}
batch_sizes = [1, {BATCH}]
[queue]
frames = 100
shed = "oldest"
[recipes.caps]
max_age_ms = {MAX_AGE_MS}
[recipes.pins]
max_age_ms = {MAX_AGE_MS}
"""


@dataclass(frozen=True, kw_only=True)
class OverloadReport:
    """Rates in frames/s, ages in ms from receiving to publishing, memory in MiB."""

    seconds: float
    offered_rate: float
    judged_rate: float
    p50_ms: float
    p99_ms: float
    max_age_ms: int
    rss_first_mib: float
    rss_last_mib: float
    rss_mib_per_minute: float
    account: Account

    @property
    def held(self) -> bool:
        in_time = self.p99_ms <= self.max_age_ms
        flat = self.rss_last_mib - self.rss_first_mib < ROOM_MIB
        return self.account.balanced and in_time and flat


class _Flood(threading.Thread):
    """Pushes parts at a steady rate until stopped."""

    def __init__(self, address: str, name: str, rate: float) -> None:
        super().__init__(name=name)
        self._camera = PushCamera(address, name)
        self._period_s = 1 / rate
        self._stop_asked = threading.Event()
        self.sent: set[Part] = set()

    def run(self) -> None:
        picture = good_part(1)
        while not self._stop_asked.wait(self._period_s):
            self.sent.add((self.name, self._camera.stream, self._camera.send(picture)))

    def stop(self) -> None:
        self._stop_asked.set()
        self.join()
        self._camera.close(PATIENCE_S)


def run_overload(folder: Path, banks: Path, *, seconds: float) -> OverloadReport:
    """Flood a daemon for so many seconds; returns what became of every frame."""
    daemon = DaemonProcess(write_config(folder, banks, SETTINGS))
    try:
        daemon.wait_for("ready")
        # Waiting for the period between two frames, a camera thread comes a little later each time.
        floods = [_Flood(daemon.addresses["push"], name, 1.1 * OVERLOAD * ENGINE_RATE / 2) for name in CAMERAS]
        with VerdictStream(daemon.addresses["verdicts"], daemon.addresses["replay"], from_offset=0) as stream:
            verdicts, rss = _flood(daemon, floods, stream, seconds)
        assert daemon.stop() == 0
    finally:
        daemon.kill()
    return _report(seconds, set().union(*(flood.sent for flood in floods)), verdicts, rss)


def _flood(
    daemon: DaemonProcess, floods: list[_Flood], stream: VerdictStream, seconds: float
) -> tuple[list[Verdict], list[float]]:
    """Return every verdict, and the daemon's memory in MiB at each RSS_INTERVAL_S of the flood."""
    process, rss = psutil.Process(daemon.pid), []
    over = threading.Event()

    def sample() -> None:
        while not over.wait(RSS_INTERVAL_S):
            rss.append(process.memory_info().rss / 2**20)

    threads = [threading.Thread(target=sample), *floods]
    for thread in threads:
        thread.start()

    def end() -> None:
        over.set()
        for flood in floods:
            flood.stop()

    ender = threading.Timer(seconds, end)
    ender.start()
    verdicts, told = [], 0
    while ender.is_alive() or told < sum(len(flood.sent) for flood in floods):
        # Every frame gets its verdict; silence while some are owed is a loss, and the account will say so.
        verdict = stream.next(PATIENCE_S)
        if verdict is None:
            break
        verdicts.append(verdict)
        told += verdict.count
    ender.join()
    return verdicts, rss


def _report(seconds: float, sent: set[Part], verdicts: list[Verdict], rss: list[float]) -> OverloadReport:
    judged = [verdict for verdict in verdicts if verdict.verdict is not Outcome.NOT_INSPECTED]
    ages_ms = [(verdict.published_ns or 0) / 1e6 - verdict.received_ns / 1e6 for verdict in judged]
    settled = rss[len(rss) // 4 :]
    slope = np.polyfit(np.arange(len(settled)) * RSS_INTERVAL_S / 60, settled, 1)[0] if len(settled) > 1 else 0.0
    return OverloadReport(
        seconds=seconds,
        offered_rate=round(len(sent) / seconds, 1),
        judged_rate=round(len(judged) / seconds, 1),
        p50_ms=round(float(np.percentile(ages_ms, 50)), 1),
        p99_ms=round(float(np.percentile(ages_ms, 99)), 1),
        max_age_ms=MAX_AGE_MS,
        rss_first_mib=round(settled[0], 1),
        rss_last_mib=round(settled[-1], 1),
        rss_mib_per_minute=round(float(slope), 2),
        account=Account.of(sent, verdicts),
    )
