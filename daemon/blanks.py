"""The sound parts that can be drawn: outlines and holes as signed distances, a height field, machining marks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.floating[Any]]
PartKind = Literal["disc", "plate"]

KINDS: Final[tuple[PartKind, ...]] = ("disc", "plate")

_STEEL: Final = np.array([0.97, 1.00, 1.03], np.float32)
_BRASS: Final = np.array([1.10, 0.99, 0.80], np.float32)


@dataclass(slots=True, eq=False)
class Blank:
    """A part while it is drawn. All planes are float32 [h, w] in part coordinates, origin at the part's centre."""

    u: Plane
    v: Plane
    outline: Plane  # signed distance to the outer edge, negative inside
    holes: list[Plane]  # signed distance to each hole's edge, negative inside the hole
    removable: range  # the holes a faulty tool may leave out
    height: Plane
    grain_u: Plane  # slope of the machining marks along u
    grain_v: Plane
    fan: Plane  # direction of the marks, radians: turned faces flash along spokes, brushed ones as a whole
    tint: NDArray[np.float32]

    def edge(self) -> Plane:
        """Signed distance to the nearest edge, outer or of a hole; negative on metal."""
        edge = self.outline
        for hole in self.holes:
            edge = np.maximum(edge, -hole)
        return edge


def _disc(rng: np.random.Generator, u: Plane, v: Plane) -> Blank:
    """A turned flange: bore, raised hub, groove, six countersunk bolt holes."""
    radius = np.sqrt(u * u + v * v)
    holes = [circle(u, v, 0.262 * np.cos(a), 0.262 * np.sin(a), 0.030) for a in np.arange(6) * np.pi / 3 + 0.26]
    height = 0.016 * ramp(0.170 - radius, 0.008)
    height -= 0.006 * ramp(0.006 - np.abs(radius - 0.335), 0.004)
    height -= 0.006 * ramp(0.004 - np.abs(radius - 0.135), 0.003)
    for hole in holes:
        height -= 0.010 * np.clip(1 - hole / 0.013, 0, 1)
    marks = _turning_marks(rng, radius)
    safe = np.maximum(radius, 1e-6)
    return Blank(
        u=u,
        v=v,
        outline=radius - np.float32(0.385),
        holes=[*holes, radius - np.float32(0.072)],
        removable=range(6),
        height=height,
        grain_u=marks * u / safe,
        grain_v=marks * v / safe,
        fan=np.arctan2(v, u),
        tint=_STEEL,
    )


def _plate(rng: np.random.Generator, u: Plane, v: Plane) -> Blank:
    """A stamped, brushed bracket: corner holes, two slots, an embossed ring about a large hole."""
    outline = box(u, v, 0.0, 0.0, 0.385, 0.300, 0.045)
    outline = np.maximum(outline, -box(u, v, 0.0, -0.315, 0.070, 0.055, 0.020))
    corners = [circle(u, v, x, y, 0.027) for x in (-0.320, 0.320) for y in (-0.235, 0.235)]
    slots = [box(u, v, x, 0.015, 0.021, 0.105, 0.021) for x in (-0.255, 0.255)]
    radius = np.sqrt(u * u + (v - 0.015) ** 2)
    height = 0.012 * ramp(0.032 - np.abs(radius - 0.150), 0.014)
    height -= 0.009 * ramp(0.007 - np.abs(np.abs(u) - 0.190) - 0.5 * np.maximum(np.abs(v) - 0.18, 0), 0.006)
    marks = _brush_marks(rng, u, v)
    return Blank(
        u=u,
        v=v,
        outline=outline,
        holes=[*corners, *slots, radius - np.float32(0.088)],
        removable=range(6),
        height=height,
        grain_u=np.zeros_like(u),
        grain_v=marks,
        fan=np.full_like(u, np.pi / 2),
        tint=_BRASS,
    )


BLANKS: Final[dict[PartKind, Callable[[np.random.Generator, Plane, Plane], Blank]]] = {"disc": _disc, "plate": _plate}


def circle(u: Plane, v: Plane, x: float, y: float, radius: float) -> Plane:
    return np.asarray(np.sqrt((u - np.float32(x)) ** 2 + (v - np.float32(y)) ** 2) - np.float32(radius))


def box(u: Plane, v: Plane, x: float, y: float, half_width: float, half_height: float, rounding: float) -> Plane:
    du = np.abs(u - np.float32(x)) - np.float32(half_width - rounding)
    dv = np.abs(v - np.float32(y)) - np.float32(half_height - rounding)
    outside = np.sqrt(np.maximum(du, 0) ** 2 + np.maximum(dv, 0) ** 2)
    return np.asarray(outside + np.minimum(np.maximum(du, dv), 0) - np.float32(rounding))


def ramp(distance: Plane, width: float) -> Plane:
    """0 below -width, 1 above width, smooth between."""
    t = np.clip(distance / np.float32(2 * width) + np.float32(0.5), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def _turning_marks(rng: np.random.Generator, radius: Plane) -> Plane:
    """Concentric tool marks: one slope per radius, a regular feed with a little chatter."""
    samples = np.arange(512, dtype=np.float32)
    profile = 0.050 * np.sin(samples * 1.9 + rng.uniform(0, 2 * np.pi)) + 0.035 * rng.standard_normal(512)
    row = np.clip(radius * np.float32(1000), 0, 511).astype(np.float32)
    return np.asarray(cv2.remap(profile.astype(np.float32)[None], row, np.zeros_like(row), cv2.INTER_LINEAR))


def _brush_marks(rng: np.random.Generator, u: Plane, v: Plane) -> Plane:
    """Long fine lines along u."""
    noise = rng.standard_normal((640, 96), dtype=np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), sigmaX=9, sigmaY=0.7)
    noise *= np.float32(0.042) / noise.std()
    column = ((u + np.float32(0.5)) * 95).astype(np.float32)
    row = ((v + np.float32(0.5)) * 639).astype(np.float32)
    return np.asarray(cv2.remap(noise, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))
