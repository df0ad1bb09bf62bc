"""How long each step of an inspection takes on this host."""

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
from numpy.typing import NDArray

from patchcore_engine import images
from patchcore_engine.backbones.extractor import FeatureExtractor
from patchcore_engine.bank import MemoryBank
from patchcore_engine.fit import FitSettings, fit
from patchcore_engine.images import Geometry
from patchcore_engine.inspector import Inspector, inspect_batch
from patchcore_engine.progress import Progress

FRAME_PIXELS: Final = 900  # as MVTec AD's pictures
NOISE_PICTURES: Final = 16
CELL_PIXELS: Final = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Medians in milliseconds per picture for one batch size. `prepare` decodes a PNG, resizes and crops."""

    batch: int
    prepare: float
    embed: float
    search: float
    score: float

    @property
    def total(self) -> float:
        """Milliseconds from an encoded picture to its verdict, the steps one after another."""
        return self.prepare + self.embed + self.search + self.score

    @property
    def pictures_per_second(self) -> float:
        """Rate of the engine thread, which doesn't wait for `prepare`: the next batch is decoded meanwhile."""
        return 1e3 / (self.embed + self.search + self.score)


def noise_bank(extractor: FeatureExtractor, geometry: Geometry, vectors: int, progress: Progress | None) -> MemoryBank:
    """Fit a bank of `vectors` patch vectors to pictures of noise; a search costs the same whatever they show."""
    patches = extractor.grid[0] * extractor.grid[1]
    count = max(NOISE_PICTURES, math.ceil(vectors / patches))
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.png" for number in range(count)]
        for path, picture in zip(paths, _noise(count, geometry.resize), strict=True):
            path.write_bytes(images.encode_png(picture))
        settings = FitSettings(recipe="noise", geometry=geometry, coreset_ratio=min(vectors / (count * patches), 1.0))
        return fit(paths, extractor, settings, progress).bank


def time_inspection(inspector: Inspector, repeats: int) -> Iterator[Timing]:
    """Time each compiled batch size, `repeats` batches of noise each."""
    frames = [images.encode_png(picture) for picture in _noise(max(inspector.extractor.batch_sizes), FRAME_PIXELS)]
    for batch in inspector.extractor.batch_sizes:
        yield _time_batch(inspector, frames[:batch], repeats)


def _time_batch(inspector: Inspector, frames: Sequence[bytes], repeats: int) -> Timing:
    prepare, embed, search, score = [], [], [], []
    for _ in range(repeats + 1):
        started = time.monotonic_ns()
        prepared = [(inspector.prepare(images.decode(frame)), inspector.bank) for frame in frames]
        prepare.append(time.monotonic_ns() - started)
        result = inspect_batch(inspector.extractor, prepared)
        embed.append(result.embed_ns)
        search.append(result.search_ns)
        score.append(result.score_ns)
    # The first batch of a size warms caches up.
    each = [median(times[1:]) / 1e6 / len(frames) for times in (prepare, embed, search, score)]
    return Timing(batch=len(frames), prepare=each[0], embed=each[1], search=each[2], score=each[3])


def _noise(count: int, size: int) -> Iterator[NDArray[np.uint8]]:
    """Yield pictures of coloured squares under faint noise, so that they compress about as a camera's do."""
    random = np.random.default_rng(0)
    cells = -(-size // CELL_PIXELS)
    for _ in range(count):
        colours = random.integers(16, 240, (cells, cells, 3), dtype=np.uint8)
        squares = colours.repeat(CELL_PIXELS, axis=0).repeat(CELL_PIXELS, axis=1)[:size, :size]
        yield squares + random.integers(0, 8, (size, size, 3), dtype=np.uint8)
