"""Leave-one-out scores of the good parts: each against the bank without its own patch vectors.

A part scored against a bank that holds its own patches looks better than any new part can; thresholds from such scores
reject several times as many good parts as they state.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.errors import CalibrationError
from patchcore_engine.index import NearestNeighbours
from patchcore_engine.scoring import ScoreMode, anomaly_maps, map_distances, modelzoo_score, reweighted_score
from patchcore_engine.several_nearest import SeveralNearest

# Queries compared with the whole bank at a time: 16 MB of products for 16,000 vectors.
_QUERY_BLOCK: Final = 256


@dataclass(frozen=True, slots=True)
class GoodScore:
    """One good picture's image score, and the median and maximum of its anomaly map."""

    score: float
    map_median: float
    map_maximum: float


def neighbours_left(owners: NDArray[np.int32], pictures: Sequence[int], most: int) -> int:
    """Return how many neighbours can weigh the scores of all `pictures`, at most `most`.

    A picture is scored without its own vectors. Weighed by fewer neighbours than the bank serves with, good parts would
    look better than any new part can. `owners`: as for `LeaveOneOut`. Raises CalibrationError where none are left.
    """
    own = np.bincount(owners, minlength=max(pictures) + 1)[list(pictures)]
    left = len(owners) - int(own.max())
    if left == 0:
        raise CalibrationError(
            "The bank's vectors are all of one picture, which leaves nothing to score that picture against: "
            "raise the coreset ratio."
        )
    return min(left, most)


class LeaveOneOut:
    """Scores training pictures against a bank whose vectors know their picture.

    `owners`: int32 [n], the picture each bank vector came from. `n_neighbors`: no more than each picture that is scored
    is left, see `neighbours_left`.
    """

    def __init__(
        self,
        index: NearestNeighbours,
        owners: NDArray[np.int32],
        *,
        n_neighbors: int,
        reweight: bool,
        score_mode: ScoreMode,
        grid: tuple[int, int],
        image_size: int,
    ) -> None:
        self._index = index
        self._owners = owners
        self._vectors = index.vectors
        self._search = SeveralNearest(index.vectors, centred=True)
        self._n_neighbors = n_neighbors
        self._reweight = reweight
        self._score_mode = score_mode
        self._grid = grid
        self._image_size = image_size

    def score(self, patches: NDArray[np.float32], pictures: Sequence[int]) -> list[GoodScore]:
        """Score `pictures` by their patches, float32 [pictures, patches, d].

        Several at once cost less: what a picture's own vectors were nearest to is compared with the whole bank anew.
        """
        owners = np.array(pictures, dtype=np.int32)
        flat = patches.reshape(-1, patches.shape[2])
        distances, nearest = self._nearest_of_others(flat, np.repeat(owners, patches.shape[1]))
        distances, nearest = distances.reshape(len(patches), -1), nearest.reshape(len(patches), -1)
        each, worst = np.arange(len(patches)), distances.argmax(axis=1)
        scores = self._image_scores(patches[each, worst], owners, distances[each, worst], nearest[each, worst])
        shown = map_distances(distances, self._score_mode).reshape(-1, *self._grid)
        maps = anomaly_maps(shown, self._image_size)
        return [GoodScore(score, float(np.median(m)), float(m.max())) for score, m in zip(scores, maps, strict=True)]

    def _image_scores(
        self,
        worst: NDArray[np.float32],
        owners: NDArray[np.int32],
        distances: NDArray[np.float32],
        nearest: NDArray[np.int64],
    ) -> list[float]:
        """Return scores by each picture's worst patch, [pictures, d], its distance to its nearest, and which it is."""
        if self._score_mode == "modelzoo":
            found, _ = self._others(worst, owners, self._n_neighbors)
            return [modelzoo_score(row**2) for row in found]
        if not self._reweight:
            return [float(distance) for distance in distances]
        _, around = self._others(self._vectors[nearest], owners, self._n_neighbors)
        return [
            reweighted_score(float(distance), np.linalg.norm(self._vectors[row] - patch, axis=1))
            for distance, patch, row in zip(distances, worst, around, strict=True)
        ]

    def _nearest_of_others(
        self, queries: NDArray[np.float32], pictures: NDArray[np.int32]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return each query's distance to, and the position of, the nearest vector that isn't its picture's."""
        found, positions = self._index.search(queries, 1)
        distances, nearest = found[:, 0], positions[:, 0]
        # Most patches' nearest vector is another picture's already.
        own = np.flatnonzero(self._owners[nearest] == pictures)
        for start in range(0, len(own), _QUERY_BLOCK):
            rows = own[start : start + _QUERY_BLOCK]
            found, positions = self._others(queries[rows], pictures[rows], 1)
            distances[rows], nearest[rows] = found[:, 0], positions[:, 0]
        return distances, nearest

    def _others(
        self, queries: NDArray[np.float32], pictures: NDArray[np.int32], count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return distances and positions of each query's `count` nearest, [q, count], without its picture's vectors."""
        squared, positions = self._search.nearest(queries, count, self._owners == pictures[:, None])
        return np.sqrt(squared), positions
