"""Small pictures of parts for the engine's tests: grey noise, and a bright blot where one is defective."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from patchcore_engine.backbones.sleeping import SleepingExtractor
from patchcore_engine.fit import FitSettings
from patchcore_engine.images import Geometry

HEIGHT, WIDTH = 80, 100
GEOMETRY = Geometry(resize=72, image_size=64)


def draw_part(rng: np.random.Generator, *, blot: bool = False) -> NDArray[np.uint8]:
    """Return uint8 [80, 100, 3]; with `blot`, a defect at x 40..60, y 30..44."""
    image = np.clip(rng.normal(120, 25, (HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8)
    if blot:
        image[30:44, 40:60] = 250
    return image


def write_good_parts(folder: Path, count: int = 30, seed: int = 0) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = [folder / f"{number:03}.png" for number in range(count)]
    for path in paths:
        cv2.imwrite(str(path), draw_part(rng))
    return paths


def settings(**changes: object) -> FitSettings:
    return FitSettings(**{"recipe": "part", "geometry": GEOMETRY, "coreset_ratio": 0.1, **changes})  # type: ignore[arg-type]


def extractor(**changes: object) -> SleepingExtractor:
    return SleepingExtractor(**changes)  # type: ignore[arg-type]
