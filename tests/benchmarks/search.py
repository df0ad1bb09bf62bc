"""Nearest neighbours of one picture's patches: every index kind's time, recall and error of the image score.

Among the queries are patches far from everything, as defects have: an index that misjudges just these looks good by its
recall. The baseline is faiss's flat index; shares of the limit count the products that comparing all takes.
The graph that an NPU searches with runs here on the CPU, so that its recall can be seen: its time tells nothing about
an NPU.
"""

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import faiss
import numpy as np
from numpy.typing import NDArray

from patchcore_engine.backbones.bank_on_device import BankOnDevice, SearchGraphs, tensor
from patchcore_engine.coreset import RandomProjection, coreset_size, greedy_k_centre
from patchcore_engine.index import NearestNeighbours
from patchcore_engine.index_choice import choose_index
from patchcore_engine.runtime import open_device
from patchcore_engine.scoring import reweighted_score
from tests.benchmarks.coreset import patch_like_points
from tests.benchmarks.figures import Options, Row, compared, in_turns, milliseconds, row
from tests.benchmarks.pictures import BACKBONES, patches_of

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
# With pictures: shares of their patches in a bank.
RATIOS: Final = (0.01, 0.1)
FULL_RATIOS: Final = (0.01, 0.1, 1.0)
ROUNDS: Final = 9
FLAT: Final = "flat"
BOUNDED: Final = "pca"
BASELINE: Final = "faiss flat"
ON_DEVICE: Final = "device graph, on this CPU"
# A larger bank takes gigabytes on a CPU, where a graph frees nothing before its end.
LARGEST_ON_DEVICE: Final = 20_000

Found = tuple[NDArray[np.float32], NDArray[np.integer[Any]]]
Search = Callable[[NDArray[np.float32], int], Found]


@dataclass(frozen=True, slots=True)
class Case:
    """`bank`: float32 [n, d]. `queries`: float32 [pictures, patches, d]. `what`: words for the table."""

    what: str
    bank: NDArray[np.float32]
    queries: NDArray[np.float32]


def run(options: Options, machine: dict[str, Any]) -> Iterator[Row]:
    for case in _of_pictures(options, options.pictures) if options.pictures is not None else _drawn(options):
        yield from _compare(case, options, machine)
        gc.collect()


def _drawn(options: Options) -> Iterator[Case]:
    for dimension in DIMENSIONS:
        for size in FULL_SIZES if options.full else SIZES:
            points = patch_like_points(size + PICTURES * PATCHES, dimension)
            queries = points[size:].reshape(PICTURES, PATCHES, dimension)
            queries[1::2, :DEFECT_PATCHES] *= DEFECT_SCALE
            yield Case(f"{size:,} x {dimension}, {PATCHES} patches", points[:size], queries)


def _of_pictures(options: Options, folder: Path) -> Iterator[Case]:
    """Fit banks of real patches to all pictures of `folder` but a few, and search these few's."""
    for backbone in options.backbones or BACKBONES:
        patches = patches_of(folder, backbone)
        dimension = patches.shape[2]
        known, queries = patches[:-PICTURES].reshape(-1, dimension), patches[-PICTURES:].copy()
        queries[1::2, :DEFECT_PATCHES] *= DEFECT_SCALE
        projected = RandomProjection(dimension, 0)(known)
        for ratio in FULL_RATIOS if options.full else RATIOS:
            chosen = np.sort(greedy_k_centre(projected, coreset_size(len(known), ratio), 0))
            what = f"{len(chosen):,} x {dimension} of {backbone}, {queries.shape[1]:,} patches"
            yield Case(what, known[chosen], queries)


def _compare(case: Case, options: Options, machine: dict[str, Any]) -> Iterator[Row]:
    bank, queries, what = case.bank, case.queries, case.what
    indexes = {
        FLAT: NearestNeighbours(bank),
        BOUNDED: choose_index(bank, queries.reshape(-1, bank.shape[1]), "pca").index,
    }
    baseline = faiss.IndexFlatL2(bank.shape[1])
    baseline.add(bank)
    searches: dict[str, Search] = {BASELINE: baseline.search}
    searches |= {kind: index.search for kind, index in indexes.items()}
    if len(bank) <= LARGEST_ON_DEVICE:
        searches[ON_DEVICE] = _on_device(bank, queries.shape[1])
    turns = {kind: _in_turn(search, queries) for kind, search in searches.items()}
    values = in_turns(turns, options.rounds or ROUNDS)
    operations = 2.0 * queries.shape[1] * bank.size
    further: dict[str, dict[str, Any]] = {
        kind: {
            "share_of_limit": operations / (float(np.median(own)) / 1e3) / machine["fp32_matmul_flops"],
            "limit": "fp32",
        }
        for kind, own in values.items()
        if kind in (BASELINE, FLAT)
    }
    yield from compared(what, "ms per picture", values, BASELINE, further)
    truth = [indexes[FLAT].search(picture, 1) for picture in queries]
    exact = [_image_score(bank, indexes[FLAT], q, *found) for q, found in zip(queries, truth, strict=True)]
    for kind, search in searches.items():
        if kind in (BASELINE, FLAT):
            continue
        answers = [search(picture, 1) for picture in queries]
        recall = [float(np.mean(a[1] == t[1])) for a, t in zip(answers, truth, strict=True)]
        scores = [_image_score(bank, indexes[FLAT], q, *found) for q, found in zip(queries, answers, strict=True)]
        errors = [abs(score - right) / right for score, right in zip(scores, exact, strict=True)]
        yield row(what, kind, "recall@1", recall)
        yield row(what, kind, "relative error of the image score", errors)


def _on_device(bank: NDArray[np.float32], patches: int) -> Search:
    open_device("CPU")
    table = np.zeros((len(bank), NEIGHBOURS), np.int32)
    resident = BankOnDevice(bank, table, "paper", patches=patches, batch_sizes=(1,), graphs=SearchGraphs())

    def search(queries: NDArray[np.float32], _count: int) -> Found:
        distances, nearest, _ = (array.asnumpy() for array in resident.search(tensor(queries[None])))
        return distances[0][:, None], nearest[0][:, None]

    return search


def _in_turn(search: Search, queries: NDArray[np.float32]) -> Callable[[], float]:
    """Return a contestant that searches another picture at each call."""
    pictures = cycle(queries)
    return milliseconds(lambda: search(next(pictures), 1))


def _image_score(
    bank: NDArray[np.float32],
    flat: NearestNeighbours,
    queries: NDArray[np.float32],
    distances: NDArray[np.float32],
    nearest: NDArray[np.integer[Any]],
) -> float:
    worst = int(np.argmax(distances[:, 0]))
    _, around = flat.search(bank[nearest[worst]], NEIGHBOURS)
    spread = np.linalg.norm(bank[around[0]] - queries[worst], axis=1)
    return reweighted_score(float(distances[worst, 0]), spread)
