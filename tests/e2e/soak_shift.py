"""One shift of a soak: the daemon, everything around it, and the report of what became of all parts."""

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from daemon.config import load_settings
from daemon.journal_file import JOURNAL_FILE
from daemon.messages import NO_CAMERA
from daemon.outcomes import Reason
from patchcore_engine.bank_store import activate
from tests.daemon.conftest import DaemonProcess, fit_sleeping_bank, write_config
from tests.e2e.account import Account, Part, journal_verdicts
from tests.e2e.cable import Cable
from tests.e2e.soak_report import LIMITS, SoakReport, Trace, slope_of, windows_of
from tests.e2e.soak_traffic import AckedCamera, BrokenCamera, Camera, PushedCamera, Shift
from tests.e2e.soak_watch import Controller, Gauges, Sleeper

SLEEP_MS = 40.0
BATCH = 4
ENGINE_RATE = 1000 * BATCH / SLEEP_MS
RECIPE = "caps"
# The camera that measures the capacity. Its surplus is shed, so it has an account of its own.
FLOOD = "flood"
# Below this share of the engine's rate the machine was measured, and not the daemon.
LEAST_CAPACITY = 0.7
# Frames that can't be inspected, on top of the load and beside it: most of them never reach the engine.
BAD_SHARE = 0.03
# What may befall a good part at this load on a machine that has other things to do.
OVERLOAD = {Reason.SHED}
# What the decoders' own C libraries write about a damaged picture.
DECODERS = ("libpng", "JPEG", "grfmt")
SETTINGS = f"""
[engine]
sleep_ms = {SLEEP_MS}
batch_sizes = [1, 2, {BATCH}]
"""
RECIPES = f"""
[recipes.{RECIPE}]
bank = "{RECIPE}"
cameras = ["*"]
"""

ShiftT = TypeVar("ShiftT", bound=Shift)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How often things happen, and for how long the capacity is measured; seconds."""

    capacity: float = 20.0
    reload: float = 20.0
    camera: float = 45.0
    subscriber: float = 30.0
    cut: float = 15.0


class Reloads(Shift):
    """Activates the other bank and sends SIGHUP, every `period_s`."""

    def __init__(self, daemon: DaemonProcess, banks: Path, versions: list[str], period_s: float) -> None:
        super().__init__("reloads", period_s)
        self._daemon = daemon
        self._banks = banks
        self._versions = versions
        self.at: list[float] = []

    def step(self, number: int) -> None:
        activate(self._banks, RECIPE, self._versions[number % len(self._versions)])
        self._daemon.signal(signal.SIGHUP)
        self.at.append(time.monotonic())


class Cuts(Shift):
    """Cuts a cable every `period_s`, first after one."""

    def __init__(self, cable: Cable, period_s: float) -> None:
        super().__init__("cuts", period_s)
        self._cable = cable

    def step(self, number: int) -> None:
        if number:
            self._cable.cut()


class Soak:
    """One daemon below `folder` at `load` of its capacity. `trace` is there after `run`."""

    trace: Trace

    def __init__(self, folder: Path, *, load: float, pace: Pace) -> None:
        banks = folder / "banks"
        self._versions = [fit_sleeping_bank(folder / f"good{seed}", banks, RECIPE, seed=seed) for seed in range(2)]
        config = write_config(folder, banks, SETTINGS, recipes=RECIPES)
        self._journal = load_settings(config).journal_dir / JOURNAL_FILE
        self._banks = banks
        self._load = load
        self._pace = pace
        self._over = threading.Event()
        self._daemon = DaemonProcess(config)

    def end_early(self) -> None:
        """Let `run` come to its report at once."""
        self._over.set()

    def run(self, seconds: float) -> SoakReport:
        with ExitStack() as resources:
            resources.callback(self._daemon.kill)
            self._daemon.wait_for("ready")
            self._addresses = self._daemon.addresses
            pool = resources.enter_context(ThreadPoolExecutor(max_workers=32))
            self._shifts: list[Shift] = []
            # Whatever fails, nothing runs on: the pool waits for all of its threads.
            resources.callback(self._stop_all)
            controller = self._start(pool, self._controller())
            visitor = self._start(pool, self._controller(self._pace.subscriber))
            resources.callback(Sleeper(self._addresses["verdicts"]).close)
            flood = self._start(pool, PushedCamera(self._addresses["push"], FLOOD, 0.5 / ENGINE_RATE, 1e9))
            capacity = self._measure_capacity(controller)
            if capacity < LEAST_CAPACITY * ENGINE_RATE:
                raise RuntimeError(
                    f"the engine's rate is {ENGINE_RATE:g} parts/s and only {capacity:.1f} were judged: "
                    "this machine or its disk is busy with something else, and a soak would tell nothing"
                )
            flood.finish()
            controller.wait_for(len(flood.sent))
            cable = resources.enter_context(Cable(self._addresses["acked"]))
            gauges = self._start(pool, Gauges(self._daemon.pid))
            reloads = self._start(pool, Reloads(self._daemon, self._banks, self._versions, self._pace.reload))
            cuts = self._start(pool, Cuts(cable, self._pace.cut))
            heard, processor_s, begin = controller.heard, gauges.processor_s, time.monotonic()
            cameras, broken = self._cameras(self._load * capacity, cable.address)
            for sender in (*cameras, broken):
                self._start(pool, sender)
            self._over.wait(seconds)
            end, processor_s, heard = time.monotonic(), gauges.processor_s - processor_s, controller.heard - heard
            for shift in (gauges, reloads, cuts, *cameras, broken):
                shift.finish()
            sent = set().union(broken.sent, *(camera.sent for camera in cameras))
            owed = len(flood.sent) + len(sent) + broken.nameless
            for reader in (controller, visitor):
                reader.wait_for(owed)
                reader.finish()
            if (status := self._daemon.stop()) != 0:
                raise RuntimeError(f"the daemon ended with status {status}: {self._daemon.log[-5:]}")
        sent |= self._nameless(broken.nameless)
        account = Account.of(sent, (v for v in journal_verdicts(self._journal) if v.camera != FLOOD))
        windows = windows_of(controller.heard_s, controller.latency_ms, begin, end)
        self.trace = Trace(gauges.seconds, gauges.series(), reloads.at)
        return SoakReport(
            minutes=round((end - begin) / 60, 2),
            capacity=round(capacity, 1),
            offered_rate=round(sum(len(camera.sent) for camera in cameras) / (end - begin), 1),
            judged_rate=round(sum(window.parts for window in windows) / (end - begin), 1),
            processor_ms_per_part=round(processor_s / max(heard, 1) * 1000, 3),
            slopes={name: slope_of(gauges.seconds, v, LIMITS[name]) for name, v in gauges.series().items()},
            windows=windows,
            events={
                "reloads asked for": len(reloads.at),
                "reloads done": self._logged("reloaded"),
                "camera reconnects": sum(camera.reconnects for camera in cameras),
                "cables cut": cable.cuts,
                "frames sent again": sum(camera.resent for camera in cameras),
                "subscriber reconnects": visitor.reconnects,
                "unreadable frames": broken.nameless,
            },
            account=account,
            flood=Account.of(flood.sent, (v for v in journal_verdicts(self._journal) if v.camera == FLOOD)),
            unaccounted=[
                *self._bad_frames(account, broken),
                *self._readers(controller, visitor, owed),
            ],
        )

    def _start(self, pool: ThreadPoolExecutor, shift: ShiftT) -> ShiftT:
        self._shifts.append(shift)
        shift.start(pool)
        return shift

    def _stop_all(self) -> None:
        for shift in self._shifts:
            shift.stop()

    def _controller(self, reconnect_s: float | None = None) -> Controller:
        return Controller(self._addresses["verdicts"], self._addresses["replay"], reconnect_s=reconnect_s)

    def _cameras(self, rate: float, acked: str) -> tuple[list[Camera], BrokenCamera]:
        """Two cameras at each door share the load; a fifth sends what can't be inspected."""
        period_s, push, reconnect_s = 4 / rate, self._addresses["push"], self._pace.camera
        cameras: list[Camera] = [
            AckedCamera(acked, "cam1", period_s, reconnect_s),
            AckedCamera(acked, "cam2", period_s, 1.3 * reconnect_s),
            PushedCamera(push, "cam3", period_s, reconnect_s),
            PushedCamera(push, "cam4", period_s, 1.3 * reconnect_s),
        ]
        return cameras, BrokenCamera(push, "cam5", 1 / (BAD_SHARE * rate))

    def _measure_capacity(self, controller: Controller) -> float:
        """Parts judged per second while twice as many come; the first second is the queue filling."""
        wait(1)
        begin, judged = time.monotonic(), len(controller.heard_s)
        wait(self._pace.capacity)
        return (len(controller.heard_s) - judged) / (time.monotonic() - begin)

    def _nameless(self, count: int) -> set[Part]:
        """What frames without a readable header are told as: the daemon counts them in one stream of its own."""
        streams = {v.stream for v in journal_verdicts(self._journal) if v.camera == NO_CAMERA}
        return {(NO_CAMERA, stream, seq) for stream in streams for seq in range(1, count + 1)}

    def _logged(self, event: str) -> int:
        return sum(entry["event"] == event for entry in self._daemon.log)

    def _bad_frames(self, account: Account, broken: BrokenCamera) -> Iterator[str]:
        for reason in {*broken.expected, *account.not_inspected} - OVERLOAD:
            told, owed = account.not_inspected.get(reason, 0), broken.expected[reason]
            if told != owed:
                yield f"{owed} parts had to be {reason}, {told} were"

    def _readers(self, controller: Controller, visitor: Controller, owed: int) -> Iterator[str]:
        for name, reader in (("the controller", controller), ("the reconnecting subscriber", visitor)):
            if reader.heard != owed or reader.out_of_order:
                yield f"{name} heard {reader.heard} of {owed} verdicts, {reader.out_of_order} out of order"
        if unknown := controller.banks.keys() - set(self._versions):
            yield f"parts were judged on banks that nobody made: {sorted(unknown)}"
        if self._logged("reload_failed"):
            yield f"{self._logged('reload_failed')} reloads failed"
        strange = [line for line in self._daemon.other_lines if not any(name in line for name in DECODERS)]
        if strange:
            yield f"the daemon wrote what is no log: {strange[:3]}"


def wait(seconds: float) -> None:
    threading.Event().wait(seconds)
