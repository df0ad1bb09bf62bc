"""Judge a test set with a bank and work out how well it does."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.datasets import EvaluationSet, LabelledPicture, read_mask
from patchcore_engine.errors import DataError, NoPicturesError
from patchcore_engine.evaluation import Evaluation, Example, PictureResult, Times
from patchcore_engine.images import PreparedImage, prepare_named, read
from patchcore_engine.inspector import Inspection, Inspector, inspect_batch
from patchcore_engine.metrics import PixelScores, auroc, f1_max, rate, roc_curve
from patchcore_engine.path_text import path_text
from patchcore_engine.progress import NoProgress, Progress

EXAMPLES = 6


@dataclass(slots=True)
class _Clock:
    """Nanoseconds spent in each step."""

    decode: int = 0
    embed: int = 0
    search: int = 0
    score: int = 0


@dataclass(slots=True)
class _Worst:
    """Keeps the few examples with the largest keys, so that a test set's pictures needn't stay in memory."""

    kept: list[tuple[float, Example]] = field(default_factory=list)

    def wants(self, key: float) -> bool:
        return len(self.kept) < EXAMPLES or key > self.kept[-1][0]

    def add(self, key: float, example: Example) -> None:
        self.kept = sorted([*self.kept, (key, example)], key=lambda entry: -entry[0])[:EXAMPLES]

    @property
    def examples(self) -> tuple[Example, ...]:
        return tuple(example for _, example in self.kept)


def evaluate(
    inspector: Inspector,
    test_set: EvaluationSet,
    *,
    skip_unreadable: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Judge every picture of `test_set` with the inspector's bank.

    Maps and masks are compared in the coordinates of the crop. Pixel figures need a mask for every defective picture.
    Raises DataError for a picture or mask that can't be read (a picture may be skipped), and for a score that is no
    number.
    """
    started = time.monotonic_ns()
    clock = _Clock()
    pixel_scores = PixelScores() if test_set.has_masks else None
    results: list[PictureResult] = []
    lowest_defective, highest_good = _Worst(), _Worst()
    skipped: list[str] = []
    with (progress or NoProgress()).stage(
        f"Judging {test_set.category}", len(test_set.pictures), "pictures"
    ) as advance:
        pictures = _read(inspector, test_set, skip_unreadable, skipped, clock)
        largest = max(inspector.extractor.batch_sizes)
        while batch := list(islice(pictures, largest)):
            found = inspect_batch(inspector.extractor, [(prepared, inspector.bank) for _, prepared, _ in batch])
            clock.embed += found.embed_ns
            clock.search += found.search_ns
            clock.score += found.score_ns
            for (picture, prepared, mask), inspection in zip(batch, found.inspections, strict=True):
                if inspection is None:
                    raise DataError(
                        f"{path_text(picture.path)} has a score that is no number: check the weights and the picture."
                    )
                result = _result(picture, inspection)
                results.append(result)
                if pixel_scores is not None and mask is not None:
                    pixel_scores.add(inspection.anomaly_map, mask)
                worst, key = (highest_good, result.score) if picture.is_good else (lowest_defective, -result.score)
                if worst.wants(key):
                    levels = inspector.heat_levels(inspection)
                    worst.add(key, Example(result=result, pixels=prepared.pixels, levels=levels, mask=mask))
            advance(len(batch))
    if not results:
        raise NoPicturesError(f"None of the {len(skipped)} test pictures of {test_set.category} can be read.")
    return _summarise(
        inspector,
        test_set.category,
        tuple(results),
        tuple(skipped),
        pixel_scores,
        lowest_defective.examples,
        highest_good.examples,
        clock,
        started,
    )


def _read(
    inspector: Inspector, test_set: EvaluationSet, skip_unreadable: bool, skipped: list[str], clock: _Clock
) -> Iterator[tuple[LabelledPicture, PreparedImage, NDArray[np.bool_] | None]]:
    geometry = inspector.bank.manifest.geometry
    for picture in test_set.pictures:
        begun = time.monotonic_ns()
        try:
            prepared = prepare_named(geometry, read(picture.path), picture.path)
        except DataError as error:
            if not skip_unreadable:
                raise type(error)(f"{error} Remove it, or go on without it by --skip-unreadable.") from error
            skipped.append(str(error))
            continue
        clock.decode += time.monotonic_ns() - begun
        mask = None
        if picture.is_good or picture.mask_path is not None:
            mask = geometry.prepare_mask(read_mask(picture, prepared.frame_height, prepared.frame_width))
        yield picture, prepared, mask


def _result(picture: LabelledPicture, inspection: Inspection) -> PictureResult:
    return PictureResult(
        path=path_text(Path(*picture.path.parts[-3:])),
        defect=picture.defect,
        outcome=inspection.outcome,
        score=inspection.score,
        p_value=inspection.p_value,
    )


def _summarise(
    inspector: Inspector,
    category: str,
    results: tuple[PictureResult, ...],
    skipped: tuple[str, ...],
    pixel_scores: PixelScores | None,
    lowest_defective: tuple[Example, ...],
    highest_good: tuple[Example, ...],
    clock: _Clock,
    started: int,
) -> Evaluation:
    manifest = inspector.bank.manifest
    good = [r for r in results if r.defect == "good"]
    defective = [r for r in results if r.defect != "good"]
    good_scores = np.array([r.score for r in good], dtype=np.float64)
    defective_scores = np.array([r.score for r in defective], dtype=np.float64)
    pixel_figures = (pixel_scores or PixelScores()).figures()
    best_f1, best_threshold = f1_max(good_scores, defective_scores) or (None, None)
    return Evaluation(
        category=category,
        recipe=manifest.recipe,
        bank_version=inspector.bank.version,
        image_auroc=auroc(good_scores, defective_scores),
        pixel_auroc=pixel_figures.auroc,
        aupro=pixel_figures.aupro,
        f1_max=best_f1,
        f1_max_threshold=best_threshold,
        false_rejects=rate(sum(r.outcome == "fail" for r in good), len(good)),
        reviews=rate(sum(r.outcome != "pass" for r in good), len(good)),
        misses=rate(sum(r.outcome == "pass" for r in defective), len(defective)),
        stated_fail_rate=manifest.thresholds.fail.rate,
        stated_review_rate=manifest.thresholds.review.rate,
        fail_threshold=manifest.thresholds.fail.value,
        review_threshold=manifest.thresholds.review.value,
        pixel_threshold=manifest.thresholds.pixel.value,
        calibration_scores=inspector.bank.calibration_scores,
        pictures=results,
        skipped=skipped,
        times=Times(
            total=(time.monotonic_ns() - started) / 1e9,
            decode=clock.decode / 1e9,
            embed=clock.embed / 1e9,
            search=clock.search / 1e9,
            score=clock.score / 1e9,
        ),
        image_roc=roc_curve(good_scores, defective_scores) if good and defective else None,
        pixel_roc=pixel_figures.roc,
        pro=pixel_figures.pro,
        lowest_defective=lowest_defective,
        highest_good=highest_good,
        settings=manifest.model_dump(
            mode="json",
            include={
                "backbone",
                "weights_digest",
                "precision",
                "embedding",
                "resize",
                "image_size",
                "coreset_ratio",
                "index",
                "vectors",
                "patches",
                "score_mode",
                "reweight",
                "n_neighbors",
                "pictures",
                "seed",
            },
        ),
    )
