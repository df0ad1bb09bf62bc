"""The whole daemon: frames through real sockets to verdict, heat map and journal, against its own engine alone.

Frames per second at saturation (the queue blocks the camera, nothing is shed); then paced at 70 % of that, and of the
rate asked for, with a shedding queue: latency, stage by stage. "added" is what a frame waited beyond a perfect
server's: one that begins a batch with whatever has arrived as soon as the engine is free and costs nothing itself.
Frame by frame this holds up to a batch's time of chance, since the two servers' batches begin at different moments;
the difference of the two 99th percentiles doesn't.
"""

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np

from patchcore_engine.images import Geometry
from tests.benchmarks.engine_alone import EngineAlone
from tests.benchmarks.figures import Options, Row, row
from tests.benchmarks.live import WARM_UP_SHARE, Heard, LiveDaemon, fit_bank, rate_of

SLEEP_MS: Final = 5.0
BATCH: Final = 8
LOAD: Final = 0.7
STAGES: Final = ("wait", "decode", "embed", "search", "score", "publish")
BLOCKING: Final = 'shed = "block"\nframes = 32'
# Name, height, width, and the frames per second that the daemon is asked for at least.
SIZES: Final = (("1 MP", 1024, 1024, 400.0), ("5 MP", 2048, 2448, 150.0))
ENGINE_BATCHES: Final = 40


def run(options: Options, _machine: dict[str, Any]) -> Iterator[Row]:
    from patchcore_engine.runtime import prepare_process

    prepare_process()
    with tempfile.TemporaryDirectory() as folder:
        if not options.backbones or "sleeping" in options.backbones:
            yield from _sleeping(Path(folder), options)
        for backbone in options.backbones or ("efficientnet_lite0",):
            if backbone != "sleeping":
                yield from _real(Path(folder), backbone, options)


def _sleeping(folder: Path, options: Options) -> Iterator[Row]:
    from patchcore_engine.backbones.sleeping import SleepingExtractor

    geometry = Geometry(resize=256, image_size=224)
    bank = fit_bank(folder / "sleeping", SleepingExtractor(image_size=224), geometry, vectors=16)
    for name, height, width, asked in SIZES:
        frames = (4000 if options.full else 1600) if name == "1 MP" else (1000 if options.full else 500)
        yield from measure(
            f"NPU of {SLEEP_MS:g} ms per batch, {name} mono raw",
            bank,
            sleep_ms=SLEEP_MS,
            height=height,
            width=width,
            frames=frames,
            rounds=options.rounds or 5,
            asked=asked,
        )


def _real(folder: Path, backbone: str, options: Options) -> Iterator[Row]:
    from patchcore_engine.backbones.factory import open_extractor
    from patchcore_engine.fit_job import geometry_for

    geometry = geometry_for(backbone)
    extractor = open_extractor(backbone=backbone, weights="random:0", geometry=geometry)
    extractor.warm_up()
    bank = fit_bank(folder / backbone, extractor, geometry, vectors=1638)
    del extractor
    yield from measure(
        f"{backbone} on CPU, 1638 vectors, 1 MP mono raw",
        bank,
        sleep_ms=0.0,
        height=1024,
        width=1024,
        frames=400 if options.full else 160,
        rounds=options.rounds or 5,
    )


def measure(
    what: str,
    bank: Path,
    *,
    sleep_ms: float,
    height: int,
    width: int,
    frames: int,
    rounds: int,
    asked: float = 0.0,
) -> Iterator[Row]:
    """Compare a daemon with its engine alone, both alive all the time, in turns; then pace it."""
    engine_settings = f'sleep_ms = {sleep_ms}\nweights = "random:0"'
    with ExitStack() as resources:
        alone = EngineAlone(bank, sleep_ms, height, width)
        resources.callback(alone.close)
        daemon = resources.enter_context(LiveDaemon(bank, engine=engine_settings, queue=BLOCKING))
        rates: dict[str, list[float]] = {"engine alone": [], "daemon": []}
        processor_ms: list[float] = []
        engine_batches = ENGINE_BATCHES if sleep_ms else max(frames // BATCH // 2, 4)
        for number in range(rounds + 1):
            batches = [alone.batch_ms(BATCH) for _ in range(engine_batches)]
            before_s = daemon.processor_s
            heard = daemon.run(frames=frames, height=height, width=width)
            processor_ms.append((daemon.processor_s - before_s) * 1e3 / frames)
            if number:
                rates["engine alone"].append(BATCH * 1e3 / statistics.fmean(batches))
                rates["daemon"].append(rate_of(heard))
        yield row(f"{what}: saturated", "engine alone", "frames/s", rates["engine alone"])
        ratio = statistics.median(a / b for a, b in zip(rates["daemon"], rates["engine alone"], strict=True))
        yield row(
            f"{what}: saturated",
            "daemon",
            "frames/s",
            rates["daemon"],
            baseline="engine alone",
            ratio_to_baseline=ratio,
            peak_rss_bytes=daemon.peak_rss_bytes,
            share_of_limit=ratio,
            limit="engine",
        )
        yield row(f"{what}: saturated", "daemon's processor time", "ms per frame", processor_ms[1:])
        rate = LOAD * statistics.median(rates["daemon"])
        batch_ms = {n: statistics.median(alone.batch_ms(n) for _ in range(7)) for n in range(1, BATCH + 1)}
    paced = {f"{LOAD:.0%} load, {rate:.0f} frames/s": rate}
    if asked:
        paced[f"{LOAD:.0%} of the {asked:.0f} frames/s asked for"] = LOAD * asked
    with LiveDaemon(bank, engine=engine_settings) as daemon:
        for name, rate in paced.items():
            heard = daemon.run(frames=frames, height=height, width=width, rate=rate)
            yield from latency_rows(f"{what}: {name}", heard, batch_ms)


def latency_rows(what: str, heard: Sequence[Heard], batch_ms: dict[int, float]) -> Iterator[Row]:
    """Return latency, what the daemon added to it, each stage, and how many frames were shed."""
    judged = [entry for entry in heard if entry.verdict["verdict"] != "not_inspected"]
    steady = judged[int(len(judged) * WARM_UP_SHARE) :]
    latency = {id(e): (e.received_ns - e.verdict["captured_ns"]) / 1e6 for e in judged}
    perfect = perfect_latency([e.verdict["captured_ns"] / 1e6 for e in judged], batch_ms)
    ideal = {id(e): value for e, value in zip(judged, perfect, strict=True)}
    added = {id(e): latency[id(e)] - ideal[id(e)] for e in judged}
    yield row(what, "capture to verdict", "ms", [latency[id(e)] for e in steady])
    maps = [(e.heatmap_ns - e.verdict["captured_ns"]) / 1e6 for e in steady if e.heatmap_ns is not None]
    yield row(what, "capture to heat map", "ms", maps)
    yield row(what, "added by the daemon", "ms", [added[id(e)] for e in steady])
    tail, perfect_tail = (float(np.percentile([own[id(e)] for e in steady], 99)) for own in (latency, ideal))
    yield row(what, "p99 beyond the perfect server's", "ms", [tail - perfect_tail])
    for stage in STAGES:
        yield row(what, f"stage {stage}", "ms", [e.verdict["stages"][stage] / 1e3 for e in steady])
    yield row(what, "not inspected", "frames", [float(len(heard) - len(judged))])


def perfect_latency(arrivals_ms: Sequence[float], batch_ms: dict[int, float]) -> list[float]:
    """Return each frame's latency at a perfect server of batches; `batch_ms` by batch size. In the arrivals' order."""
    order = np.argsort(arrivals_ms, kind="stable")
    sorted_ms = np.asarray(arrivals_ms)[order]
    latencies = np.empty(len(sorted_ms))
    free_ms, first, largest = 0.0, 0, max(batch_ms)
    while first < len(sorted_ms):
        begin_ms = max(free_ms, float(sorted_ms[first]))
        last = min(int(np.searchsorted(sorted_ms, begin_ms, side="right")), first + largest)
        free_ms = begin_ms + batch_ms[last - first]
        latencies[first:last] = free_ms - sorted_ms[first:last]
        first = last
    result = np.empty_like(latencies)
    result[order] = latencies
    return [float(value) for value in result]
