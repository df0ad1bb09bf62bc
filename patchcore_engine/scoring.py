"""From patch distances to an image score, an anomaly map, defect regions and pictures of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from patchcore_engine.images import Rect

ScoreMode = Literal["paper", "modelzoo"]

# PatchCore, section 4.1: sigma 4 for pictures of 224 pixels.
_SIGMA: Final = 4.0
_SIGMA_IMAGE_SIZE: Final = 224
# A verdict is a message, not a picture: it names the worst regions.
MAX_REGIONS: Final = 32
THRESHOLD_LEVEL: Final = 128
_OVERLAY_STRENGTH: Final = 0.65
_SMALLEST_SPAN: Final = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """One connected defect region. Lengths and places in pixels of the original frame, `peak` in units of the map."""

    x: int
    y: int
    width: int
    height: int
    area: float
    peak: float
    centroid: tuple[float, float]


@dataclass(frozen=True, slots=True)
class HeatScale:
    """A bank's fixed scale for heat maps: `median` of the good parts' maps is 0, `threshold` is level 128."""

    median: float
    threshold: float

    def levels(self, anomaly_map: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return uint8 of the map's shape; never scaled by the map's own extremes."""
        span = max(self.threshold - self.median, _SMALLEST_SPAN)
        levels = (anomaly_map - self.median) * (THRESHOLD_LEVEL / span)
        return np.clip(levels, 0, 255, out=levels).astype(np.uint8)


def reweighted_score(distance: float, neighbour_distances: NDArray[np.float32] | Sequence[float]) -> float:
    """Weigh an image's largest patch distance by how common its bank neighbourhood is (PatchCore, equation 7).

    `distance`: from the patch to its nearest bank vector m*. `neighbour_distances`: from the patch to the nearest bank
    vectors of m*, m* among them. The largest exponent is subtracted, so that no distance overflows.
    """
    distances = np.asarray(neighbour_distances, dtype=np.float64)
    largest = max(float(distances.max()), distance)
    share = np.exp(distance - largest) / np.exp(distances - largest).sum()
    return float((1.0 - share) * distance)


def modelzoo_score(squared_distances: NDArray[np.float32]) -> float:
    """Score as MindSpore's ModelZoo does: squared distances from the worst patch to its own k nearest bank vectors."""
    squared = np.asarray(squared_distances, dtype=np.float64)
    weight = 1.0 - 1.0 / np.exp(squared - squared.max()).sum()
    return float(weight * squared[0])


def map_distances(distances: NDArray[np.float32], mode: ScoreMode) -> NDArray[np.float32]:
    """Return what the anomaly map shows of patch distances: in ModelZoo's mode their squares."""
    return np.square(distances) if mode == "modelzoo" else distances


def anomaly_maps(patch_distances: NDArray[np.float32], image_size: int) -> NDArray[np.float32]:
    """Upsample patch distances, float32 [n, grid_h, grid_w], to smoothed maps float32 [n, image_size, image_size].

    Bilinear upsampling followed by a Gaussian of sigma 4 (at 224 pixels; scaled with the picture). Both are linear and
    separable, so that one small matrix for each axis does them together.
    """
    down = _upsample_and_smooth(patch_distances.shape[1], image_size)
    across = _upsample_and_smooth(patch_distances.shape[2], image_size)
    return np.asarray(down @ patch_distances @ across.T, dtype=np.float32)


@lru_cache(maxsize=16)
def _upsample_and_smooth(grid: int, image_size: int) -> NDArray[np.float32]:
    """Return the float32 [image_size, grid] matrix of one axis."""
    # One column of `grid` unit impulses each; OpenCV works along the rows, the other axis stays as it is.
    impulses = np.eye(grid, dtype=np.float32)
    upsampled = cv2.resize(impulses, (grid, image_size), interpolation=cv2.INTER_LINEAR)
    sigma = _SIGMA * image_size / _SIGMA_IMAGE_SIZE
    radius = int(4 * sigma + 0.5)
    kernel = cv2.getGaussianKernel(2 * radius + 1, sigma, cv2.CV_32F)
    smoothed = cv2.sepFilter2D(
        upsampled, cv2.CV_32F, np.ones((1, 1), np.float32), kernel, borderType=cv2.BORDER_REFLECT
    )
    return np.ascontiguousarray(smoothed, dtype=np.float32)


def find_regions(
    anomaly_map: NDArray[np.float32], threshold: float, rect: Rect, frame_height: int, frame_width: int
) -> tuple[Region, ...]:
    """Return the connected regions of `anomaly_map` >= `threshold`, highest peak first, at most 32.

    `rect`: the part of the frame that the map covers.
    """
    above = (anomaly_map >= threshold).view(np.uint8)
    if not above.any():
        return ()
    count, labels, stats, centroids = cv2.connectedComponentsWithStats(above, connectivity=8)
    scale_x, scale_y = rect.width / anomaly_map.shape[1], rect.height / anomaly_map.shape[0]
    regions = []
    for label in range(1, count):
        left, top, width, height, area = (int(value) for value in stats[label])
        window = np.s_[top : top + height, left : left + width]
        peak = float(anomaly_map[window][labels[window] == label].max())
        x, right = _span(rect.x + scale_x * left, rect.x + scale_x * (left + width), frame_width)
        y, bottom = _span(rect.y + scale_y * top, rect.y + scale_y * (top + height), frame_height)
        regions.append(
            Region(
                x=x,
                y=y,
                width=right - x,
                height=bottom - y,
                area=area * scale_x * scale_y,
                peak=peak,
                centroid=(
                    rect.x + scale_x * (float(centroids[label][0]) + 0.5),
                    rect.y + scale_y * (float(centroids[label][1]) + 0.5),
                ),
            )
        )
    regions.sort(key=lambda region: -region.peak)
    return tuple(regions[:MAX_REGIONS])


def _span(start: float, stop: float, limit: int) -> tuple[int, int]:
    """Round to whole pixels, at least one, of the `limit` that the frame has."""
    first = min(max(round(start), 0), limit - 1)
    return first, min(max(round(stop), first + 1), limit)


def overlay(pixels: NDArray[np.uint8], levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lay heat levels, uint8 [h, w], over a picture, uint8 [h, w, 3] RGB: the hotter, the less the picture shows."""
    if levels.shape != pixels.shape[:2]:
        levels = cv2.resize(levels, (pixels.shape[1], pixels.shape[0]), interpolation=cv2.INTER_LINEAR)
    colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    opacity = np.minimum(levels.astype(np.float32) / THRESHOLD_LEVEL, 1.0)[:, :, None] * _OVERLAY_STRENGTH
    return np.asarray(pixels * (1 - opacity) + colours * opacity, dtype=np.uint8)
