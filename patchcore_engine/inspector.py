"""Pictures in, verdicts out: a feature extractor and a memory bank together."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.backbones.extractor import FeatureExtractor
from patchcore_engine.bank import MemoryBank, OutcomeName
from patchcore_engine.host_patches import embed_for_search
from patchcore_engine.images import PreparedImage, Rect
from patchcore_engine.parity import Deviation, check_parity
from patchcore_engine.scoring import Region, anomaly_maps, find_regions, map_distances


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """The verdict on one picture.

    `score`: weighted L2 distance. `p_value`: conformal, against the bank's good parts. `anomaly_map`: float32
    [image_size, image_size] over `rect` of the original frame. `regions`: in pixels of the original frame.
    """

    outcome: OutcomeName
    score: float
    p_value: float
    anomaly_map: NDArray[np.float32]
    regions: tuple[Region, ...]
    rect: Rect
    frame_height: int
    frame_width: int


@dataclass(frozen=True, slots=True)
class BatchResult:
    """Inspections in the order of the items, None where a score was no finite number; stages in nanoseconds."""

    inspections: list[Inspection | None]
    embed_ns: int
    search_ns: int
    score_ns: int


def inspect_batch(extractor: FeatureExtractor, items: Sequence[tuple[PreparedImage, MemoryBank]]) -> BatchResult:
    """Inspect up to max(extractor.batch_sizes) pictures, each against its own bank, in one pass of the network."""
    start = time.monotonic_ns()
    patches = embed_for_search(extractor, np.stack([image.pixels for image, _bank in items]))
    embedded = time.monotonic_ns()
    search_ns = 0
    inspections: list[Inspection | None] = [None] * len(items)
    order = sorted(range(len(items)), key=lambda position: id(items[position][1]))
    for _key, group in groupby(order, key=lambda position: id(items[position][1])):
        positions = list(group)
        bank = items[positions[0]][1]
        before = time.monotonic_ns()
        found = patches.search(bank, positions)
        search_ns += time.monotonic_ns() - before
        grid = (len(positions), *extractor.grid)
        shown = map_distances(found.distances, bank.manifest.score_mode).reshape(grid)
        maps = anomaly_maps(shown, bank.manifest.image_size)
        for row, position in enumerate(positions):
            score = bank.image_score(found.distances[row], found.around[row])
            if np.isfinite(score):
                inspections[position] = _inspection(items[position][0], bank, score, maps[row])
    return BatchResult(inspections, embedded - start, search_ns, time.monotonic_ns() - embedded - search_ns)


def _inspection(image: PreparedImage, bank: MemoryBank, score: float, anomaly_map: NDArray[np.float32]) -> Inspection:
    threshold = bank.manifest.thresholds.pixel.value
    return Inspection(
        outcome=bank.outcome(score),
        score=score,
        p_value=bank.p_value(score),
        anomaly_map=anomaly_map,
        regions=find_regions(anomaly_map, threshold, image.rect, image.frame_height, image.frame_width),
        rect=image.rect,
        frame_height=image.frame_height,
        frame_width=image.frame_width,
    )


class Inspector:
    """One extractor with one bank. Raises BankMismatchError when they don't belong together."""

    def __init__(self, extractor: FeatureExtractor, bank: MemoryBank) -> None:
        bank.require(extractor.identity)
        self.extractor = extractor
        self.bank = bank
        self._geometry = bank.manifest.geometry

    def check_parity(self) -> Deviation | None:
        """Hold an extractor of another engine to the bank's parity set; see `parity.check_parity`."""
        return check_parity(self.extractor, self.bank)

    def prepare(self, image: NDArray[np.uint8]) -> PreparedImage:
        """Bring a frame, uint8 [h, w, 3] RGB or [h, w] mono, to the bank's geometry."""
        return self._geometry.prepare(image)

    def inspect(self, images: Sequence[NDArray[np.uint8]]) -> list[Inspection | None]:
        """Inspect any number of frames; None where a frame got no finite score."""
        largest = max(self.extractor.batch_sizes)
        results: list[Inspection | None] = []
        for start in range(0, len(images), largest):
            batch = [(self.prepare(image), self.bank) for image in images[start : start + largest]]
            results += inspect_batch(self.extractor, batch).inspections
        return results

    def heat_levels(self, inspection: Inspection) -> NDArray[np.uint8]:
        """Return the map of `inspection` as uint8 on the bank's fixed scale: 128 = pixel threshold."""
        return self.bank.manifest.heat_scale.levels(inspection.anomaly_map)
