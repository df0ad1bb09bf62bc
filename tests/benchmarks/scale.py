"""How a fit grows with its pictures, and the latency of the pipeline with its cameras."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from patchcore_engine.images import Geometry
from tests.benchmarks.child import ROOT
from tests.benchmarks.figures import Options, Row, row
from tests.benchmarks.live import LiveDaemon, fit_bank

PICTURES: Final = (50, 200)
FULL_PICTURES: Final = (200, 1000, 5000)
RATIO: Final = 0.01
CAMERAS: Final = (1, 8, 64)
# All cameras together, about half of what two cores can do.
FRAMES_PER_S: Final = 200.0
FRAMES: Final = 1200
SIDE: Final = 1024
SLEEP_MS: Final = 5.0


def run(options: Options, _machine: dict[str, Any]) -> Iterator[Row]:
    yield from _fits(FULL_PICTURES if options.full else PICTURES)
    yield from _cameras(options)


def _fits(sizes: tuple[int, ...]) -> Iterator[Row]:
    """The backbone is left out: it costs every picture the same."""
    first = 0.0
    for pictures in sizes:
        command = [sys.executable, "-m", "tests.benchmarks.fit_child", str(pictures), str(RATIO)]
        done = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
        each = 1e3 * done["seconds"] / pictures
        first = first or each
        what = f"fit of {pictures:,} pictures at {RATIO:.0%}, without the backbone"
        yield row(
            what,
            "fit",
            "ms per picture",
            [each],
            baseline=f"{sizes[0]:,} pictures",
            ratio_to_baseline=each / first,
            peak_rss_bytes=done["peak"],
        )
        for stage, seconds in done["stages"].items():
            yield row(what, f"stage {stage}", "s", [seconds])


def _cameras(options: Options) -> Iterator[Row]:
    from patchcore_engine.backbones.sleeping import SleepingExtractor

    with tempfile.TemporaryDirectory() as folder:
        geometry = Geometry(resize=256, image_size=224)
        bank = fit_bank(Path(folder) / "banks", SleepingExtractor(image_size=224), geometry, vectors=16)
        for cameras in CAMERAS:
            with LiveDaemon(bank, engine=f"sleep_ms = {SLEEP_MS}") as daemon:
                frames = FRAMES * (4 if options.full else 1)
                heard = daemon.run(frames=frames, height=SIDE, width=SIDE, cameras=cameras, rate=FRAMES_PER_S)
                judged = [entry for entry in heard if entry.verdict["verdict"] != "not_inspected"]
                steady = judged[len(judged) // 5 :]
                what = f"{cameras} camera(s), {FRAMES_PER_S:.0f} frames/s of 1 MP in all"
                latencies = [(entry.received_ns - entry.verdict["captured_ns"]) / 1e6 for entry in steady]
                yield row(what, "capture to verdict", "ms", latencies, peak_rss_bytes=daemon.peak_rss_bytes)
                yield row(what, "not inspected", "frames", [float(len(heard) - len(judged))])
