"""Leave-one-out scores of the good parts: each against the bank without its own patch vectors.

A part scored against a bank that holds its own patches looks better than any new part can; thresholds from such scores
reject several times as many good parts as they state.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.errors import CalibrationError
from patchcore_engine.index import NearestNeighbours
from patchcore_engine.scoring import ScoreMode, anomaly_maps, map_distances, modelzoo_score, reweighted_score

# Most patches' nearest vector is another picture's, and faiss finds one neighbour faster than a few.
_NEIGHBOURS_ASKED: Final = (1, 16, 128, 1024)


@dataclass(frozen=True, slots=True)
class GoodScore:
    """One good picture's image score, and the median and maximum of its anomaly map."""

    score: float
    map_median: float
    map_maximum: float


class LeaveOneOut:
    """Scores training pictures against a bank whose vectors know their picture.

    `owners`: int32 [n], the picture each bank vector came from. Raises CalibrationError where it is the same for all.
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
        if (owners == owners[0]).all():
            raise CalibrationError(
                "The bank's vectors are all of one picture, which leaves nothing to score that picture against: "
                "raise the coreset ratio."
            )
        self._index = index
        self._owners = owners
        self._n_neighbors = n_neighbors
        self._reweight = reweight
        self._score_mode = score_mode
        self._grid = grid
        self._image_size = image_size

    def score(self, patches: NDArray[np.float32], picture: int) -> GoodScore:
        """Score `picture` by its patches, float32 [patches, d]."""
        distances, nearest = self._nearest_of_others(patches, picture)
        worst = int(np.argmax(distances))
        if self._score_mode == "modelzoo":
            others, _ = self._search_others(patches[worst], picture, self._n_neighbors)
            score = modelzoo_score(others**2)
        elif self._reweight:
            vectors = self._index.vectors
            _, around = self._search_others(vectors[nearest[worst]], picture, self._n_neighbors)
            score = reweighted_score(float(distances[worst]), np.linalg.norm(vectors[around] - patches[worst], axis=1))
        else:
            score = float(distances[worst])
        shown = map_distances(distances, self._score_mode).reshape(1, *self._grid)
        anomaly_map = anomaly_maps(shown, self._image_size)[0]
        return GoodScore(score, float(np.median(anomaly_map)), float(anomaly_map.max()))

    def _nearest_of_others(
        self, patches: NDArray[np.float32], picture: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return for each patch the nearest vector of another picture, asking for more where all found are its own."""
        distances = np.full(len(patches), np.nan, dtype=np.float32)
        nearest = np.zeros(len(patches), dtype=np.int64)
        pending = np.arange(len(patches))
        for asked in (*(count for count in _NEIGHBOURS_ASKED if count < len(self._index)), len(self._index)):
            found, positions = self._index.search(patches[pending], asked)
            foreign = self._owners[positions] != picture
            column = foreign.argmax(axis=1)
            done = foreign.any(axis=1)
            rows = np.arange(len(pending))[done]
            distances[pending[done]] = found[rows, column[done]]
            nearest[pending[done]] = positions[rows, column[done]]
            pending = pending[~done]
            if not len(pending):
                break
        return distances, nearest

    def _search_others(
        self, query: NDArray[np.float32], picture: int, count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        asked = min(count + int(np.count_nonzero(self._owners == picture)), len(self._index))
        found, positions = self._index.search(query[None, :], asked)
        foreign = self._owners[positions[0]] != picture
        return found[0][foreign][:count], positions[0][foreign][:count]
