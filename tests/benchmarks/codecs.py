"""Encoded frames to pixels, with the checks of what a file claims, and heat maps to PNG, against OpenCV alone.

Pictures are drawn as a sensor sees parts: soft shapes with noise of three grey levels. The smooth ones are without.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from daemon.heatmaps import encode_grey_png
from patchcore_engine import images
from patchcore_engine.images import list_pictures
from tests.benchmarks.figures import Options, Row, compared, in_turns, milliseconds

ROUNDS: Final = 15
BASELINE: Final = "OpenCV alone"
OURS: Final = "checked and decoded"
ENCODED: Final = "encoded row by row"
HEATMAP: Final = 384
NOISE: Final = 3.0
SIZES: Final = {"1 MP": (1000, 1000), "5 MP": (2048, 2448), "12 MP": (3000, 4000)}


def run(options: Options, machine: dict[str, Any]) -> Iterator[Row]:
    for what, data in _of_folder(options.pictures) if options.pictures is not None else _drawn():
        contestants = {BASELINE: milliseconds(partial(_opencv, data)), OURS: milliseconds(partial(images.decode, data))}
        yield from compared(what, "ms", in_turns(contestants, options.rounds or ROUNDS), BASELINE)
    for what, levels in _heatmaps():
        contestants = {
            BASELINE: milliseconds(partial(images.encode_png, levels)),
            ENCODED: milliseconds(partial(encode_grey_png, levels)),
        }
        values = in_turns(contestants, options.rounds or ROUNDS)
        yield from compared(f"heat map, {HEATMAP} px, {what}", "ms", values, BASELINE)


def _heatmaps() -> Iterator[tuple[str, NDArray[np.uint8]]]:
    soft = _soft_shapes(HEATMAP, HEATMAP)[:, :, 0]
    yield "a good part", np.clip(soft / 4 - 20, 0, 255).astype(np.uint8)
    yield "defects", np.clip(soft - 60, 0, 255).astype(np.uint8)


def _opencv(data: bytes) -> NDArray[np.uint8]:
    image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    return images.to_uint8_rgb(image, color="bgr" if image.ndim == 3 else "mono", bits=8 * image.dtype.itemsize)


def _of_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    path = list_pictures(folder)[0]
    yield path.name, path.read_bytes()


def _drawn() -> Iterator[tuple[str, bytes]]:
    for size, (height, width) in SIZES.items():
        smooth = _soft_shapes(height, width)
        noise = np.random.default_rng(1).normal(0, NOISE, smooth.shape)
        noisy = np.clip(smooth + noise, 0, 255)
        kinds: dict[str, NDArray[Any]] = {
            "mono": noisy[:, :, 0].astype(np.uint8),
            "RGB": noisy.astype(np.uint8),
            "16-bit mono": np.clip(257 * (smooth[:, :, 0] + noise[:, :, 0]), 0, 65535).astype(np.uint16),
            "RGB, smooth": smooth.astype(np.uint8),
        }
        for kind, picture in kinds.items():
            yield f"PNG, {size} {kind}", _encoded(".png", picture)
        yield f"JPEG, {size} RGB", _encoded(".jpg", kinds["RGB"])


def _soft_shapes(height: int, width: int) -> NDArray[np.float64]:
    """Return float64 [height, width, 3] of 0 to 255."""
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR), np.float64)


def _encoded(suffix: str, picture: NDArray[Any]) -> bytes:
    ok, data = cv2.imencode(suffix, picture)
    if not ok:
        raise ValueError(f"OpenCV can't write {suffix}.")
    return bytes(data.tobytes())
