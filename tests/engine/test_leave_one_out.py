"""Leave-one-out scores, against float64 and every other picture's vectors."""

from pathlib import Path
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from patchcore_engine.errors import CalibrationError
from patchcore_engine.fit import FitResult, fit
from patchcore_engine.images import read
from patchcore_engine.index import NearestNeighbours
from patchcore_engine.inspector import Inspector
from patchcore_engine.leave_one_out import LeaveOneOut, neighbours_left
from patchcore_engine.scoring import ScoreMode, modelzoo_score, reweighted_score
from tests.engine import parts
from tests.engine.test_several_nearest import alike

PICTURES, GRID, DIMENSION = 12, (4, 4), 64
NEIGHBOURS: Final = 9


def score_in_float64(
    patches: NDArray[np.float64],
    bank: NDArray[np.float64],
    own: NDArray[np.bool_],
    mode: ScoreMode,
    reweight: bool,
    neighbours: int = NEIGHBOURS,
) -> float:
    distances = cdist(patches, bank)
    distances[:, own] = np.inf
    worst = int(distances.min(axis=1).argmax())
    nearest = int(distances[worst].argmin())
    if mode == "modelzoo":
        return modelzoo_score(np.sort(distances[worst])[:neighbours] ** 2)
    if not reweight:
        return float(distances[worst, nearest])
    around = cdist(bank[nearest][None], bank)[0]
    around[own] = np.inf
    return reweighted_score(distances[worst, nearest], distances[worst, around.argsort()[:neighbours]])


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


@pytest.mark.parametrize("mode", ["paper", "modelzoo"])
def test_a_picture_whose_patches_are_no_numbers_has_no_score_and_leaves_the_others_theirs(mode: ScoreMode) -> None:
    patches = alike(3 * 16, DIMENSION, 1).reshape(3, 16, DIMENSION)
    bank, owners = patches.reshape(-1, DIMENSION)[::2].copy(), np.repeat(np.arange(3, dtype=np.int32), 8)
    scorer = LeaveOneOut(
        NearestNeighbours(bank),
        owners,
        n_neighbors=NEIGHBOURS,
        reweight=True,
        score_mode=mode,
        grid=GRID,
        image_size=32,
    )
    patches[1, 5, 7] = np.nan
    scores = [good.score for good in scorer.score(patches, range(3))]
    assert np.isnan(scores).tolist() == [False, True, False]


def fit_few_vectors(folder: Path, mode: ScoreMode) -> FitResult:
    """12 pictures and 7 vectors."""
    return fit(
        parts.write_good_parts(folder, count=12), parts.extractor(), parts.settings(coreset_ratio=0.01, score_mode=mode)
    )


@pytest.mark.parametrize("mode", ["paper", "modelzoo"])
def test_a_bank_of_few_vectors_weighs_by_as_many_neighbours_as_every_picture_was_left(
    mode: ScoreMode, tmp_path: Path
) -> None:
    result = fit_few_vectors(tmp_path, mode)
    bank = result.bank
    assert len(bank.index) == 7
    served = bank.neighbours.shape[1]
    assert 2 <= served == bank.manifest.n_neighbors == 7 - np.bincount(bank.owners).max() < 7
    pictures = [read(path) for path in result.calibrated]
    patches = parts.extractor().embed(np.stack([parts.GEOMETRY.prepare(picture).pixels for picture in pictures]))
    vectors = bank.index.vectors.astype(np.float64)
    expected = [
        score_in_float64(own.astype(np.float64), vectors, bank.owners == number, mode, True, served)
        for number, own in enumerate(patches)
    ]
    np.testing.assert_allclose(result.picture_scores, expected, rtol=1e-4)
    # Nothing is left out of a picture that gave the bank no vector: the service's score is the same.
    strangers = np.setdiff1d(np.arange(12), bank.owners)
    scores = [verdict.score for verdict in Inspector(parts.extractor(), bank).inspect(pictures) if verdict is not None]
    assert len(strangers) > 0
    np.testing.assert_allclose(np.array(scores)[strangers], result.picture_scores[strangers], rtol=1e-5)


def test_pictures_that_own_much_of_a_bank_leave_few_neighbours_and_one_that_isnt_scored_none() -> None:
    owners = np.array([0, 0, 0, 1, 2, 2, 7], dtype=np.int32)
    assert neighbours_left(owners, [0, 1, 2, 9], 9) == 4
    assert neighbours_left(owners, [1, 2, 9], 9) == 5
    assert neighbours_left(owners, [9], 9) == 7
    assert neighbours_left(owners, [0, 1, 2], 3) == 3


def test_a_bank_that_leaves_one_vector_to_weigh_by_serves_scores_that_are_not_weighed(tmp_path: Path) -> None:
    good = parts.write_good_parts(tmp_path, count=12)
    weighed, plain = (
        fit(good, parts.extractor(), parts.settings(coreset_ratio=0.0035, reweight=asked)) for asked in (True, False)
    )
    assert len(weighed.bank.index) == 2
    assert (weighed.bank.manifest.n_neighbors, weighed.bank.manifest.reweight) == (1, False)
    np.testing.assert_array_equal(weighed.picture_scores, plain.picture_scores)
    assert (weighed.picture_scores > 0).all()


def test_modelzoos_score_would_be_0_with_one_vector_to_weigh_by_and_is_refused(tmp_path: Path) -> None:
    good = parts.write_good_parts(tmp_path, count=12)
    two_vectors = parts.settings(coreset_ratio=0.0035, score_mode="modelzoo", reweight=False)
    with pytest.raises(CalibrationError, match=r"2 vectors leave a picture only one .*: raise the coreset ratio"):
        fit(good, parts.extractor(), two_vectors)
