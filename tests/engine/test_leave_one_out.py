"""Leave-one-out scores, against float64 and every other picture's vectors."""

from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from patchcore_engine.index import NearestNeighbours
from patchcore_engine.leave_one_out import LeaveOneOut
from patchcore_engine.scoring import ScoreMode, modelzoo_score, reweighted_score
from tests.engine.test_several_nearest import alike

PICTURES, GRID, DIMENSION = 12, (4, 4), 64
NEIGHBOURS: Final = 9


def score_in_float64(
    patches: NDArray[np.float64], bank: NDArray[np.float64], own: NDArray[np.bool_], mode: ScoreMode, reweight: bool
) -> float:
    distances = cdist(patches, bank)
    distances[:, own] = np.inf
    worst = int(distances.min(axis=1).argmax())
    nearest = int(distances[worst].argmin())
    if mode == "modelzoo":
        return modelzoo_score(np.sort(distances[worst])[:NEIGHBOURS] ** 2)
    if not reweight:
        return float(distances[worst, nearest])
    around = cdist(bank[nearest][None], bank)[0]
    around[own] = np.inf
    return reweighted_score(distances[worst, nearest], distances[worst, around.argsort()[:NEIGHBOURS]])


@pytest.mark.parametrize(("mode", "reweight"), [("paper", True), ("paper", False), ("modelzoo", False)])
@pytest.mark.parametrize("kind", ["flat", "pca"])
def test_pictures_that_are_all_alike_have_the_scores_of_float64(mode: ScoreMode, reweight: bool, kind: str) -> None:
    patches = alike(PICTURES * 16, DIMENSION, 1).reshape(PICTURES, 16, DIMENSION)
    bank = patches.reshape(-1, DIMENSION)[::2].copy()
    owners = np.repeat(np.arange(PICTURES, dtype=np.int32), 8)
    scorer = LeaveOneOut(
        NearestNeighbours(bank, kind),  # type: ignore[arg-type]
        owners,
        n_neighbors=NEIGHBOURS,
        reweight=reweight,
        score_mode=mode,
        grid=GRID,
        image_size=32,
    )
    scores = [good.score for good in scorer.score(patches, range(PICTURES))]
    exact = bank.astype(np.float64)
    expected = [
        score_in_float64(patches[picture].astype(np.float64), exact, owners == picture, mode, reweight)
        for picture in range(PICTURES)
    ]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
