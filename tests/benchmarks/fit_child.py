"""One fit in a process of its own, so that its peak memory is its own; prints JSON.

python -m tests.benchmarks.fit_child PICTURES RATIO

Its backbone draws patch vectors of wide_resnet50_2's shape instead of computing them: what is measured is decoding,
projection, storage, coreset and calibration.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.backbones.extractor import ExtractorIdentity
from patchcore_engine.fit import FitSettings, fit
from patchcore_engine.images import Geometry, encode_png
from tests.benchmarks.coreset import patch_like_points
from tests.benchmarks.figures import peak_rss_bytes

GEOMETRY: Final = Geometry(resize=256, image_size=224)
SIDE: Final = 28
DIMENSION: Final = 1536
DRAWN: Final = 16_384


class DrawingExtractor:
    """Fulfils FeatureExtractor with points drawn from a stock of them, shifted a little from picture to picture."""

    grid = (SIDE, SIDE)
    dimension = DIMENSION
    batch_sizes: Sequence[int] = (8,)
    identity = ExtractorIdentity(
        backbone="sleeping", weights_digest="0" * 64, embedding="paper", image_size=224, precision="float32"
    )

    def __init__(self) -> None:
        self._random = np.random.default_rng(1)
        self._stock = patch_like_points(DRAWN, DIMENSION)

    def warm_up(self) -> None: ...

    def release(self) -> None: ...

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        shape = (len(images), SIDE * SIDE)
        first, second = (self._stock[self._random.integers(DRAWN, size=shape)] for _ in range(2))
        first += np.float32(0.3) * second
        return first


def main() -> None:
    pictures, ratio = int(sys.argv[1]), float(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        random = np.random.default_rng(0)
        for number in range(pictures):
            path = Path(folder) / f"{number}.png"
            path.write_bytes(encode_png(random.integers(100, 110, (256, 256), dtype=np.uint8)))
            paths.append(path)
        extractor = DrawingExtractor()
        begin = time.monotonic()
        result = fit(paths, extractor, FitSettings(recipe="scale", geometry=GEOMETRY, coreset_ratio=ratio))
        seconds = time.monotonic() - begin
    print(json.dumps({"seconds": seconds, "stages": result.bank.manifest.seconds, "peak": peak_rss_bytes()}))


if __name__ == "__main__":
    main()
