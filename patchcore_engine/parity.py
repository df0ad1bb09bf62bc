"""The parity check: another engine than the one a bank is defined by must give the same distances, scores and verdicts.

A bank keeps a few pictures with the reference engine's results (`ParitySet`), so that the check needs neither the
training pictures nor the reference engine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.backbones.extractor import FeatureExtractor, ParityBounds, SubstituteExtractor
from patchcore_engine.bank import MemoryBank
from patchcore_engine.errors import ParityError
from patchcore_engine.host_patches import embed_for_search
from patchcore_engine.parity_set import ParitySet
from patchcore_engine.scoring import map_distances

# A defect's side as a share of the picture's, and of one of its squares as a share of the defect's.
_DEFECT_SHARE: Final = 0.25
_DEFECT_SQUARES: Final = 8


@dataclass(frozen=True, slots=True)
class Deviation:
    """The worst differences from the reference engine, infinite where a number is none.

    `distance` and `score`: as shares of the reference's value, or of the threshold where that is larger.
    `verdicts`: how many differ.
    """

    distance: float
    score: float
    verdicts: int

    def within(self, bounds: ParityBounds) -> bool:
        return self.distance <= bounds.distance and self.score <= bounds.score and self.verdicts == 0


def with_parity_set(bank: MemoryBank, reference: FeatureExtractor, good: Sequence[NDArray[np.uint8]]) -> MemoryBank:
    """Return `bank` with a parity set of `good` parts, uint8 [s, s, 3] prepared, each also with a drawn defect.

    A good part's own patches are in the bank and lie near 0; the defects measure the large distances. Raises
    ParityError where the reference gives no numbers.
    """
    pixels = np.stack([*good, *(_with_defect(picture) for picture in good)])
    distances, scores = _judge(reference, bank, pixels)
    if not (np.isfinite(distances).all() and np.isfinite(scores).all()):
        raise ParityError("The parity pictures have patches that are no numbers: check the weights and the device.")
    return bank.with_parity(ParitySet(pixels, distances, scores))


def deviation(extractor: FeatureExtractor, bank: MemoryBank) -> Deviation:
    """Compare `extractor` with the bank's parity set. Raises ParityError when the bank has none."""
    parity = bank.parity
    if parity is None:
        raise ParityError(
            f"Bank {bank.manifest.recipe}/{bank.version} holds no parity pictures, so only the reference engine may "
            'serve it, engine = "mindspore" with search = "faiss": set these, or fit it anew.'
        )
    distances, scores = _judge(extractor, bank, parity.pixels)
    thresholds, mode = bank.manifest.thresholds, bank.manifest.score_mode
    return Deviation(
        distance=_worst(map_distances(distances, mode), map_distances(parity.distances, mode), thresholds.pixel.value),
        score=_worst(scores, parity.scores, thresholds.fail.value),
        verdicts=sum(
            bank.outcome(ours) != bank.outcome(theirs) for ours, theirs in zip(scores, parity.scores, strict=True)
        ),
    )


def check_parity(extractor: FeatureExtractor, bank: MemoryBank) -> Deviation | None:
    """Hold a `SubstituteExtractor` to the bank's parity set; None for the reference engine itself.

    Raises ParityError when it deviates by more than its bounds, or can't be compared.
    """
    if not isinstance(extractor, SubstituteExtractor):
        return None
    found, bounds = deviation(extractor, bank), extractor.parity_bounds
    if not found.within(bounds):
        raise ParityError(
            f"{extractor.engine} deviates from the reference on bank {bank.manifest.recipe}/{bank.version}: distances "
            f"by {found.distance:.2g} (at most {bounds.distance:g}), scores by {found.score:.2g} (at most "
            f"{bounds.score:g}), {found.verdicts} of {len(bank.parity.scores) if bank.parity else 0} verdicts. "
            f"{extractor.remedy}"
        )
    return found


def _judge(
    extractor: FeatureExtractor, bank: MemoryBank, pixels: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return distances float32 [n, patches] and scores float64 [n]."""
    # Full batches of the largest size: the one that is compiled in any case.
    size = max(extractor.batch_sizes)
    order = np.arange(-(-len(pixels) // size) * size) % len(pixels)
    distances, scores = [], []
    for start in range(0, len(order), size):
        found = embed_for_search(extractor, pixels[order[start : start + size]]).search(bank, range(size))
        distances.append(found.distances)
        scores += [bank.image_score(*picture) for picture in zip(found.distances, found.around, strict=True)]
    return np.concatenate(distances)[: len(pixels)], np.array(scores[: len(pixels)], dtype=np.float64)


def _worst(found: NDArray[np.floating], wanted: NDArray[np.floating], threshold: float) -> float:
    if not np.isfinite(found).all():
        return float("inf")
    scale = np.maximum(np.maximum(wanted, threshold), np.finfo(np.float32).tiny)
    return float(np.max(np.abs(found - wanted) / scale))


def _with_defect(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a copy with a square of coloured squares in its middle."""
    size = len(pixels)
    square = max(round(size * _DEFECT_SHARE / _DEFECT_SQUARES), 1)
    colours = np.random.RandomState(0).randint(0, 256, (_DEFECT_SQUARES, _DEFECT_SQUARES, 3)).astype(np.uint8)
    defect = colours.repeat(square, axis=0).repeat(square, axis=1)
    start = (size - len(defect)) // 2
    result = pixels.copy()
    result[start : start + len(defect), start : start + len(defect)] = defect
    return result
