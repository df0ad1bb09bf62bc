"""Each share of the memory budget, filled in a real daemon: it must hold what the share says, and no more."""

import os
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import zmq
from numpy.typing import NDArray

from daemon.config import MIB
from daemon.push_camera import PushCamera
from patchcore_engine.backbones.sleeping import SleepingExtractor
from patchcore_engine.bank_store import activate, save
from patchcore_engine.fit import FitSettings, fit
from patchcore_engine.images import Geometry, encode_png
from tests.daemon.conftest import DaemonProcess, good_part, write_config
from tests.daemon.memory_gauge import SLACK_BYTES, Growth, budget_of
from tests.daemon.serving import Start, metric, until


def large_part(bytes_: int, *, defect: bool = False) -> NDArray[np.uint8]:
    part = np.full((1024, bytes_ // 1024), 105, dtype=np.uint8)
    if defect:
        part[256:512, : bytes_ // 2048] = 250
    return part


def test_a_flood_of_large_frames_fills_the_queue_and_no_more(start_daemon: Start) -> None:
    daemon = start_daemon(
        "[engine]\nsleep_ms = 2000\nbatch_sizes = [1]\n[intake]\nmax_cameras = 2\nmax_frame_bytes = 4194304\n"
        "[queue]\nbytes = 100663296\n[service]\ndrain_s = 0\n"
    )
    growth, budget = Growth(daemon), budget_of(daemon)
    part = large_part(4 * MIB)
    with ExitStack() as cameras:
        for name in ("cam1", "cam2"):
            camera = cameras.enter_context(PushCamera(daemon.addresses["push"], name))
            for _ in range(30):
                camera.send(part)
        until(lambda: shed(daemon) > 20)
    assert 80 * MIB < growth.peak < budget["queue"] + budget["connections"] + SLACK_BYTES


def test_readers_that_never_read_hold_what_may_wait_for_them_and_no_more(start_daemon: Start, tmp_path: Path) -> None:
    fit_larger_bank(tmp_path)
    text = (
        '[publish]\nheatmaps = "float16"\nhigh_water_mark = 200\nheatmap_subscriptions = 2\n[queue]\nshed = "block"\n'
    )
    recipes = '[recipes.large]\nbank = "large"\ncameras = ["*"]\n'
    daemon = start_daemon(config=write_config(tmp_path / "daemon", tmp_path / "banks", text, recipes=recipes))
    growth, budget = Growth(daemon), budget_of(daemon)
    part = good_part(1, 256)
    with zmq.Context() as context, ExitStack() as opened:
        for _ in range(2):
            reader = opened.enter_context(context.socket(zmq.SUB))
            reader.rcvhwm, reader.rcvbuf = 1, 4096
            reader.subscribe(b"heatmap/")
            reader.connect(daemon.addresses["verdicts"])
        with PushCamera(daemon.addresses["push"], "cam1") as camera:
            for _ in range(400):
                camera.send(part)
            until(lambda: judged(daemon) == 400)
        peak = growth.peak
    assert 200 * 2 * 256**2 < peak < budget["subscribers"] + budget["batches"] + SLACK_BYTES


def test_an_archive_that_hangs_holds_its_queue_and_no_more(start_daemon: Start, tmp_path: Path) -> None:
    for day in (datetime.now(), datetime.now() + timedelta(days=1)):
        folder = tmp_path / "archive" / day.strftime("%Y-%m-%d") / "caps"
        folder.mkdir(parents=True)
        # Whoever opens a pipe to write to it waits for a reader.
        os.mkfifo(folder / "cam1-7-0-fail.png.partial")
    daemon = start_daemon(
        '[intake]\nmax_cameras = 1\nmax_frame_bytes = 2097152\n[queue]\nbytes = 2097152\nshed = "block"\n'
        "[engine]\nbatch_sizes = [1]\n"
        f'[archive]\nenabled = true\ndir = "{tmp_path / "archive"}"\nqueue_bytes = 50331648\n'
    )
    growth, budget = Growth(daemon), budget_of(daemon)
    part = large_part(2 * MIB, defect=True)
    with PushCamera(daemon.addresses["push"], "cam1", stream=7) as camera:
        for _ in range(60):
            camera.send(part)
        until(lambda: judged(daemon) == 60)
    assert metric(daemon, "patchline_archive_dropped_parts_total") > 0
    around = budget["queue"] + budget["connections"] + budget["batches"] + budget["judged parts"]
    assert growth.now < budget["archive"] + SLACK_BYTES
    assert 44 * MIB < growth.peak < budget["archive"] + around + SLACK_BYTES


def judged(daemon: DaemonProcess) -> float:
    return sum(
        metric(daemon, f'patchline_verdicts_total{{camera="cam1",verdict="{v}"}}') for v in ("pass", "review", "fail")
    )


def shed(daemon: DaemonProcess) -> float:
    return metric(daemon, 'patchline_not_inspected_total{reason="shed"}')


def fit_larger_bank(folder: Path) -> None:
    """A bank of 256-pixel crops, whose heat maps are large."""
    pictures = []
    for number in range(12):
        pictures.append(folder / f"{number}.png")
        pictures[-1].write_bytes(encode_png(good_part(number, 256)))
    settings = FitSettings(recipe="large", geometry=Geometry(resize=256, image_size=256), coreset_ratio=0.1)
    bank = fit(pictures, SleepingExtractor(image_size=256), settings).bank
    activate(folder / "banks", "large", save(bank, folder / "banks", "large").name)
