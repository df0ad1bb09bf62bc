"""Draws machined metal parts as a camera above a belt would see them, good or with one known defect.

A part is a height field over an outline (signed distances, so edges are smooth without supersampling), shaded by one
lamp and seen through a lens with blur and sensor noise. Lengths are fractions of the picture's shorter side.
"""

from dataclasses import dataclass
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from daemon.blanks import BLANKS, Blank, PartKind, Plane
from daemon.defects import Defect, add_burr, add_dent, add_scratch, contamination, omit_hole

_CHAMFER: Final = 0.012
_THICKNESS: Final = 0.020
_BELT: Final = np.array([0.92, 1.00, 1.06], np.float32)
_GRIME: Final = np.array([1.30, 0.98, 0.66], np.float32)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DrawnPart:
    """One drawn part and the truth about it.

    `pixels`: uint8 [h, w] or RGB [h, w, 3].  `mask`: bool [h, w], True where the defect is; all False for a good part.
    """

    kind: PartKind
    defect: Defect | None
    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_]

    @property
    def truth(self) -> str:
        return self.defect or "good"


def draw_part(
    kind: PartKind,
    rng: np.random.Generator,
    *,
    defect: Defect | None = None,
    size: tuple[int, int] = (480, 480),
    color: Literal["mono", "rgb"] = "rgb",
) -> DrawnPart:
    """Draw one part of `kind`; position, rotation, light, texture and noise come from `rng`.

    `size`: height and width in pixels. The same state of `rng` gives the same picture.
    """
    lamp = np.deg2rad(rng.normal(-128, 4.0))
    blank = BLANKS[kind](rng, *_part_coordinates(rng, size))
    pixel = 1 / min(size)
    mask = np.zeros(size, bool)
    gloss = np.ones(size, np.float32)
    grime = np.zeros(size, np.float32)
    if defect == "missing_hole":
        mask = omit_hole(blank, rng)
    elif defect == "burr":
        mask = add_burr(blank, rng)
    elif defect == "dent":
        mask = add_dent(blank, rng)
    elif defect == "scratch":
        mask = add_scratch(blank, rng, gloss)
    elif defect == "contamination":
        grime, mask = contamination(blank, rng)
    edge = blank.edge()
    metal = np.clip(0.5 - edge / pixel, 0, 1)
    chamfer = np.clip(-edge / _CHAMFER, 0, 1)
    brightness = _shade(blank, blank.height + 0.009 * chamfer, lamp, gloss * (1 - 0.9 * grime), pixel)
    brightness *= 1 - 0.62 * grime
    picture = _compose(rng, brightness, metal, grime, blank.tint, lamp)
    return DrawnPart(kind=kind, defect=defect, pixels=_photograph(rng, picture, color), mask=mask)


def _part_coordinates(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Plane, Plane]:
    height, width = size
    dx, dy = rng.uniform(-0.018, 0.018, 2)
    angle = np.deg2rad(rng.uniform(-7, 7))
    zoom = rng.uniform(0.985, 1.015)
    x = (np.arange(width, dtype=np.float32) - (width - 1) / 2) / min(size) - np.float32(dx)
    y = (np.arange(height, dtype=np.float32) - (height - 1) / 2) / min(size) - np.float32(dy)
    cos, sin = np.float32(np.cos(angle) / zoom), np.float32(np.sin(angle) / zoom)
    return x[None, :] * cos + y[:, None] * sin, y[:, None] * cos - x[None, :] * sin


def _shade(blank: Blank, height: Plane, lamp: float, gloss: Plane, pixel: float) -> Plane:
    """Light from direction `lamp` (radians) at about 45 degrees, camera straight above."""
    slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=1 / (8 * pixel)) + blank.grain_u
    slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=1 / (8 * pixel)) + blank.grain_v
    toward = -(slope_x * np.float32(np.cos(lamp)) + slope_y * np.float32(np.sin(lamp)))
    norm = 1 / np.sqrt(1 + slope_x**2 + slope_y**2)
    diffuse = np.clip((0.72 + 0.70 * toward) * norm, 0, None)
    highlight = np.clip((0.93 + 0.38 * toward) * norm, 0, 1) ** 18
    flash = np.cos(blank.fan - np.float32(lamp)) ** 2
    flash = flash * flash
    return np.asarray(
        0.12 + 0.42 * diffuse + gloss * (0.52 * highlight * (0.20 + 0.80 * flash) + 0.13 * flash), np.float32
    )


def _compose(
    rng: np.random.Generator,
    brightness: Plane,
    metal: Plane,
    grime: Plane,
    tint: NDArray[np.float32],
    lamp: float,
) -> NDArray[np.float32]:
    """Lay the part on the belt, with its shadow. Returns float32 [h, w, 3], RGB, about 0 to 1."""
    height, width = metal.shape
    belt = rng.standard_normal((height // 3 + 1, width // 3 + 1), dtype=np.float32)
    belt = cv2.resize(cv2.GaussianBlur(belt, (0, 0), 0.8), (width, height), interpolation=cv2.INTER_LINEAR)
    shift = _THICKNESS * min(height, width)
    move = np.array([[1, 0, -shift * np.cos(lamp)], [0, 1, -shift * np.sin(lamp)]], np.float32)
    shadow = cv2.GaussianBlur(cv2.warpAffine(metal, move, (width, height)), (0, 0), shift * 0.45)
    ground = (0.150 + 0.012 * belt) * (1 - 0.72 * shadow)
    surface = brightness[..., None] * tint * (1 + grime[..., None] * (_GRIME - 1))
    return np.asarray(surface * metal[..., None] + ground[..., None] * _BELT * (1 - metal[..., None]), np.float32)


def _photograph(rng: np.random.Generator, picture: Plane, color: Literal["mono", "rgb"]) -> NDArray[np.uint8]:
    """Uneven light, lens blur, gain and sensor noise."""
    height, width = picture.shape[:2]
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :]
    y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
    tilt_x, tilt_y = rng.normal(0, 0.05, 2)
    light = rng.uniform(0.92, 1.08) * (1 + tilt_x * x + tilt_y * y - 0.35 * (x * x + y * y))
    if color == "mono":
        picture = picture @ np.array([0.30, 0.59, 0.11], np.float32)
    else:
        light = light[..., None]
    picture = cv2.GaussianBlur(picture * light.astype(np.float32), (0, 0), rng.uniform(0.45, 0.75))
    noise = rng.standard_normal(picture.shape, dtype=np.float32)
    picture = picture + noise * (0.004 + 0.012 * np.sqrt(np.clip(picture, 0, 1)))
    return np.asarray(np.clip(picture * 255 + 0.5, 0, 255), np.uint8)
