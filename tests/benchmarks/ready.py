"""Seconds from `patchline serve` to READY=1, and the peak memory of a daemon that is ready.

"cold": the libraries' and the bank's files are dropped from the page cache first, as far as nothing else maps them.
"""

import os
import site
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.figures import Options, Row, row
from tests.benchmarks.live import LiveDaemon, fit_bank

ROUNDS: Final = 3
BATCH_SIZES: Final = "batch_sizes = [1, 2, 4, 8]"
VECTORS: Final = 1638


def run(options: Options, _machine: dict[str, Any]) -> Iterator[Row]:
    from patchcore_engine.backbones.sleeping import SleepingExtractor
    from patchcore_engine.images import Geometry
    from patchcore_engine.runtime import prepare_process

    prepare_process()
    with tempfile.TemporaryDirectory() as folder:
        for backbone in options.backbones or ("sleeping", "efficientnet_lite0", "wide_resnet50_2"):
            if backbone == "sleeping":
                bank = fit_bank(Path(folder) / backbone, SleepingExtractor(), Geometry(resize=64, image_size=64), 16)
            else:
                bank = _real_bank(Path(folder) / backbone, backbone)
            for contestant in ("cold", "warm"):
                yield from _start(f"{backbone}, batches up to 8", contestant, bank, options.rounds or ROUNDS)


def _real_bank(folder: Path, backbone: str) -> Path:
    from patchcore_engine.backbones.factory import open_extractor
    from patchcore_engine.fit_job import geometry_for

    geometry = geometry_for(backbone)
    extractor = open_extractor(backbone=backbone, weights="random:0", geometry=geometry, batch_sizes=(8,))
    return fit_bank(folder, extractor, geometry, VECTORS)


def _start(what: str, contestant: str, bank: Path, rounds: int) -> Iterator[Row]:
    seconds, peaks = [], []
    for _ in range(rounds):
        if contestant == "cold":
            _forget_files([*(Path(folder) for folder in site.getsitepackages()), bank])
        with LiveDaemon(bank, engine=f'weights = "random:0"\n{BATCH_SIZES}') as daemon:
            seconds.append(daemon.ready_s)
            peaks.append(daemon.peak_rss_bytes)
    yield row(what, contestant, "s", seconds, peak_rss_bytes=max(peaks))


def _forget_files(folders: Iterable[Path]) -> None:
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                descriptor = os.open(path, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)
