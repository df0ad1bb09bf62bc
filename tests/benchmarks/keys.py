"""What keys cost: two daemons over tcp, one whose doors ask for keys and encrypt, in turns; then both at one rate."""

import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from patchcore_engine.images import Geometry
from tests.benchmarks.figures import Options, Row, row
from tests.benchmarks.live import WARM_UP_SHARE, LiveDaemon, fit_bank, rate_of

# Of what the slower of the two takes.
LOAD: Final = 0.7
PLAIN, KEYED = "without keys", "with keys"
BLOCKING: Final = 'shed = "block"\nframes = 32'
# A stand-in for an NPU, as in the benchmark `pipeline`.
ENGINE: Final = "sleep_ms = 5.0"
# Name, height, width, and the frames of a turn.
SIZES: Final = (("1 MP", 1024, 1024, 1600), ("5 MP", 2048, 2448, 500))


def run(options: Options, _machine: dict[str, Any]) -> Iterator[Row]:
    from patchcore_engine.backbones.sleeping import SleepingExtractor
    from patchcore_engine.runtime import prepare_process

    prepare_process()
    with tempfile.TemporaryDirectory() as folder:
        geometry = Geometry(resize=256, image_size=224)
        bank = fit_bank(Path(folder), SleepingExtractor(image_size=224), geometry, vectors=16)
        for name, height, width, frames in SIZES:
            yield from _compare(
                f"{name} mono raw over tcp",
                bank,
                height=height,
                width=width,
                frames=frames * (3 if options.full else 1),
                rounds=options.rounds or 5,
            )


def _compare(what: str, bank: Path, *, height: int, width: int, frames: int, rounds: int) -> Iterator[Row]:
    rates: dict[str, list[float]] = {PLAIN: [], KEYED: []}
    processor_ms: dict[str, list[float]] = {PLAIN: [], KEYED: []}
    latency_ms: dict[str, list[float]] = {PLAIN: [], KEYED: []}
    with ExitStack() as resources:
        daemons = {
            name: resources.enter_context(
                LiveDaemon(bank, engine=ENGINE, queue=BLOCKING, tcp=True, keyed=name is KEYED)
            )
            for name in (PLAIN, KEYED)
        }
        for number in range(rounds + 1):
            for name, daemon in daemons.items():
                before_s = daemon.processor_s
                heard = daemon.run(frames=frames, height=height, width=width)
                if number:
                    rates[name].append(rate_of(heard))
                    processor_ms[name].append((daemon.processor_s - before_s) * 1e3 / frames)
        rate = LOAD * min(statistics.median(values) for values in rates.values())
        for _ in range(rounds):
            for name, daemon in daemons.items():
                heard = daemon.run(frames=frames, height=height, width=width, rate=rate)
                steady = heard[int(len(heard) * WARM_UP_SHARE) :]
                latency_ms[name] += [(e.received_ns - e.verdict["captured_ns"]) / 1e6 for e in steady]
    yield from _pair(f"{what}: saturated", "frames/s", rates)
    yield from _pair(f"{what}: daemon's processor time", "ms per frame", processor_ms)
    yield row(f"{what}: capture to verdict at {rate:.0f} frames/s", PLAIN, "ms", latency_ms[PLAIN])
    yield row(f"{what}: capture to verdict at {rate:.0f} frames/s", KEYED, "ms", latency_ms[KEYED])


def _pair(what: str, unit: str, values: dict[str, list[float]]) -> Iterator[Row]:
    yield row(what, PLAIN, unit, values[PLAIN])
    ratio = statistics.median(b / a for a, b in zip(values[PLAIN], values[KEYED], strict=True))
    yield row(what, KEYED, unit, values[KEYED], baseline=PLAIN, ratio_to_baseline=ratio)
