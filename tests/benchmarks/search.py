"""Nearest neighbours of one picture's patches: every index kind's time, recall and error of the image score.

Among the queries are patches far from everything, as defects have: an index that misjudges just these looks good by its
recall. The baseline is faiss's flat index; shares of the limit count the products that comparing all takes.
"""

import gc
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import faiss
import numpy as np
from numpy.typing import NDArray

from patchcore_engine.index import INDEX_KINDS, NearestNeighbours
from patchcore_engine.scoring import reweighted_score
from tests.benchmarks.coreset import patch_like_points
from tests.benchmarks.figures import Options, Row, compared, in_turns, milliseconds, row

SIZES: Final = (1_638, 16_385)
FULL_SIZES: Final = (1_638, 16_385, 163_856)
# Patch vectors of wide_resnet50_2 and of efficientnet_lite0.
DIMENSIONS: Final = (1536, 152)
PATCHES: Final = 784
PICTURES: Final = 8
# The patches of a picture that belong to a defect, and how far they lie from the good ones.
DEFECT_PATCHES: Final = 6
DEFECT_SCALE: Final = 1.6
NEIGHBOURS: Final = 9
ROUNDS: Final = 9
FLAT: Final = "flat"
BASELINE: Final = "faiss flat"


def run(options: Options, machine: dict[str, Any]) -> Iterator[Row]:
    for dimension in DIMENSIONS:
        for size in FULL_SIZES if options.full else SIZES:
            yield from _compare(size, dimension, options, machine)
            gc.collect()


def _compare(size: int, dimension: int, options: Options, machine: dict[str, Any]) -> Iterator[Row]:
    points = patch_like_points(size + PICTURES * PATCHES, dimension)
    bank, queries = points[:size], points[size:].reshape(PICTURES, PATCHES, dimension)
    queries[1::2, :DEFECT_PATCHES] *= DEFECT_SCALE
    indexes = {kind: NearestNeighbours(bank, kind) for kind in INDEX_KINDS}
    baseline = faiss.IndexFlatL2(dimension)
    baseline.add(bank)
    searches = {BASELINE: milliseconds(partial(baseline.search, queries[1], 1))}
    searches |= {kind: milliseconds(partial(index.search, queries[1], 1)) for kind, index in indexes.items()}
    values = in_turns(searches, options.rounds or ROUNDS)
    operations = 2.0 * PATCHES * size * dimension
    further: dict[str, dict[str, Any]] = {
        kind: {
            "share_of_limit": operations / (float(np.median(own)) / 1e3) / machine["fp32_matmul_flops"],
            "limit": "fp32",
        }
        for kind, own in values.items()
        if kind in (BASELINE, FLAT)
    }
    what = f"{size:,} x {dimension}, {PATCHES} patches"
    yield from compared(what, "ms per picture", values, BASELINE, further)
    truth = [indexes[FLAT].search(picture, 1) for picture in queries]
    exact = [_image_score(bank, indexes[FLAT], q, *found) for q, found in zip(queries, truth, strict=True)]
    for kind, index in indexes.items():
        if kind == FLAT:
            continue
        answers = [index.search(picture, 1) for picture in queries]
        recall = [float(np.mean(a[1] == t[1])) for a, t in zip(answers, truth, strict=True)]
        scores = [_image_score(bank, indexes[FLAT], q, *found) for q, found in zip(queries, answers, strict=True)]
        errors = [abs(score - right) / right for score, right in zip(scores, exact, strict=True)]
        yield row(what, kind, "recall@1", recall)
        yield row(what, kind, "relative error of the image score", errors)


def _image_score(
    bank: NDArray[np.float32],
    flat: NearestNeighbours,
    queries: NDArray[np.float32],
    distances: NDArray[np.float32],
    nearest: NDArray[np.int64],
) -> float:
    worst = int(np.argmax(distances[:, 0]))
    _, around = flat.search(bank[nearest[worst]], NEIGHBOURS)
    spread = np.linalg.norm(bank[around[0]] - queries[worst], axis=1)
    return reweighted_score(float(distances[worst, 0]), spread)
