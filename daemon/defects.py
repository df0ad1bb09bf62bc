"""The defects that can be drawn onto a blank. Each function returns a mask, bool [h, w], True where the defect is."""

from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from daemon.blanks import Blank, Plane, ramp

Defect = Literal["scratch", "dent", "missing_hole", "contamination", "burr"]

DEFECTS: Final[tuple[Defect, ...]] = ("scratch", "dent", "missing_hole", "contamination", "burr")


def _spot(blank: Blank, rng: np.random.Generator, margin: float) -> tuple[float, float]:
    """A place on the metal, at least `margin` from every edge, in part coordinates."""
    candidates = np.flatnonzero(blank.edge() < -margin)
    chosen = int(rng.choice(candidates))
    return float(blank.u.flat[chosen]), float(blank.v.flat[chosen])


def omit_hole(blank: Blank, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Leave one hole undrilled; its countersink stays."""
    return np.asarray(blank.holes.pop(int(rng.choice(blank.removable))) < 0)


def add_dent(blank: Blank, rng: np.random.Generator) -> NDArray[np.bool_]:
    """A round blow that also wipes out the machining marks."""
    x, y = _spot(blank, rng, 0.030)
    radius = rng.uniform(0.020, 0.032)
    squared = ((blank.u - x) ** 2 + ((blank.v - y) * rng.uniform(0.8, 1.25)) ** 2) / np.float32(radius**2)
    blank.height -= np.float32(radius * rng.uniform(0.50, 0.70)) * np.exp(-squared * np.float32(1.6))
    damping = 1 - np.exp(-squared)
    blank.grain_u *= damping
    blank.grain_v *= damping
    return squared < 1.4


def add_scratch(blank: Blank, rng: np.random.Generator, gloss: Plane) -> NDArray[np.bool_]:
    """A curved groove whose fresh rims shine; `gloss` is changed in place."""
    x, y = _spot(blank, rng, 0.035)
    heading = rng.uniform(0, np.pi)
    length = rng.uniform(0.14, 0.26)
    t = np.linspace(-0.5, 0.5, 24) * length
    bend = rng.uniform(-2.2, 2.2) * t**2 + rng.normal(0, 0.0005, 24)
    cos, sin = np.cos(heading), np.sin(heading)
    path = np.stack([x + t * cos - bend * sin, y + t * sin + bend * cos])
    distance = np.full(blank.u.shape, 1.0, np.float32)
    for (x0, y0), (x1, y1) in zip(path.T[:-1], path.T[1:], strict=True):
        distance = np.minimum(distance, _segment(blank, x0, y0, x1, y1))
    on_metal = blank.edge() < 0
    width = rng.uniform(0.0030, 0.0045)
    blank.height -= np.float32(rng.uniform(0.0045, 0.0065)) * np.exp(-((distance / np.float32(width)) ** 2))
    gloss += 0.8 * np.exp(-(((distance - np.float32(width)) / np.float32(0.6 * width)) ** 2))
    return (distance < 2.2 * width) & on_metal


def _segment(blank: Blank, x0: float, y0: float, x1: float, y1: float) -> Plane:
    """Distance to the segment from (x0, y0) to (x1, y1)."""
    dx, dy = np.float32(x1 - x0), np.float32(y1 - y0)
    along = ((blank.u - np.float32(x0)) * dx + (blank.v - np.float32(y0)) * dy) / (dx * dx + dy * dy)
    along = np.clip(along, 0, 1)
    return np.sqrt((blank.u - np.float32(x0) - along * dx) ** 2 + (blank.v - np.float32(y0) - along * dy) ** 2)


def contamination(blank: Blank, rng: np.random.Generator) -> tuple[Plane, NDArray[np.bool_]]:
    """A smear of grease: ragged, dull, darker. Returns its density, 0 to 1 [h, w], and its mask."""
    x, y = _spot(blank, rng, 0.030)
    radius = rng.uniform(0.030, 0.050)
    cells = cv2.GaussianBlur(rng.standard_normal((64, 64), dtype=np.float32), (0, 0), 1.8)
    ragged = cv2.resize(cells / cells.std(), blank.u.shape[::-1], interpolation=cv2.INTER_CUBIC)
    fine = cv2.GaussianBlur(rng.standard_normal(blank.u.shape, dtype=np.float32), (0, 0), 2.5)
    heading = rng.uniform(0, np.pi)
    along = (blank.u - x) * np.cos(heading) + (blank.v - y) * np.sin(heading)
    across = (blank.v - y) * np.cos(heading) - (blank.u - x) * np.sin(heading)
    level = 1 - np.sqrt((along / 1.5) ** 2 + across**2) / radius + 0.34 * ragged + 0.10 * fine / fine.std()
    grime = (0.9 * ramp(level.astype(np.float32), 0.30) * (blank.edge() < 0)).astype(np.float32)
    grime *= np.exp(-np.maximum(np.hypot(along, across) / radius - 2, 0)).astype(np.float32)
    return grime, grime > 0.35


def add_burr(blank: Blank, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Ragged metal pushed out over the outer edge."""
    rim = np.flatnonzero(np.abs(blank.outline) < 0.003)
    chosen = int(rng.choice(rim))
    x, y = float(blank.u.flat[chosen]), float(blank.v.flat[chosen])
    before = blank.outline
    reach = rng.uniform(0.050, 0.080)
    near = np.exp(-(((blank.u - x) ** 2 + (blank.v - y) ** 2) / np.float32(0.35 * reach**2)))
    cells = cv2.GaussianBlur(rng.standard_normal((160, 160), dtype=np.float32), (0, 0), 1.3)
    teeth = cv2.resize(cells / cells.std(), blank.u.shape[::-1], interpolation=cv2.INTER_CUBIC)
    swell = near * np.float32(0.016) * (1 + 0.7 * teeth)
    blank.outline = before - np.maximum(swell, 0)
    blank.height += 0.8 * np.maximum(swell, 0) * np.exp(-((before / np.float32(0.014)) ** 2))
    return (blank.outline < 0.002) & (before > -0.012) & (near > 0.12)
