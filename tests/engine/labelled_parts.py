"""A small category in MVTec AD's layout, drawn: good parts, and parts with a blot and the mask of it."""

from pathlib import Path

import cv2
import numpy as np

from tests.engine.parts import HEIGHT, WIDTH, draw_part, write_good_parts

CATEGORY = "part"


def write_category(data: Path, category: str = CATEGORY, *, good: int = 8, blotted: int = 6, seed: int = 7) -> Path:
    """Write train/good (30 parts), test/good, test/blot and ground_truth/blot; return the category's folder."""
    home = data / category
    write_good_parts(home / "train" / "good")
    rng = np.random.default_rng(seed)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[30:44, 40:60] = 255
    for folder in ("test/good", "test/blot", "ground_truth/blot"):
        (home / folder).mkdir(parents=True)
    for number in range(good):
        cv2.imwrite(str(home / "test" / "good" / f"{number:03}.png"), draw_part(rng))
    for number in range(blotted):
        cv2.imwrite(str(home / "test" / "blot" / f"{number:03}.png"), draw_part(rng, blot=True))
        cv2.imwrite(str(home / "ground_truth" / "blot" / f"{number:03}_mask.png"), mask)
    return home
