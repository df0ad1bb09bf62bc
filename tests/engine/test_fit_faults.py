"""Fits whose network gives what is no number: told in a line that names the picture, never waited for."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from patchcore_engine.backbones.failing import FailingExtractor
from patchcore_engine.backbones.faults import Fault
from patchcore_engine.backbones.sleeping import SleepingExtractor
from patchcore_engine.coreset import greedy_k_centre
from patchcore_engine.errors import DataError, ParityError
from patchcore_engine.fit import fit
from patchcore_engine.merged_coreset import CoresetPlan, MergedCoreset
from tests.engine import parts

# 30 pictures of 64 patches: in one pass, and in chunks of 5 pictures.
PLANS = {"one pass": CoresetPlan(), "merged": CoresetPlan(one_pass=1000, chunk=320)}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return parts.write_good_parts(tmp_path_factory.mktemp("good"))


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_a_device_that_gives_no_numbers_ends_the_fit_and_names_the_first_picture(
    good: list[Path], plan: str, batch: int
) -> None:
    broken = FailingExtractor(faults=[Fault(kind="nan", after=batch, batches=1)])
    with pytest.raises(DataError, match=rf"{good[8 * batch].name}.*no numbers.*check the weights and the device"):
        fit(good, broken, parts.settings(coreset_plan=PLANS[plan]))


def test_a_device_that_gives_no_numbers_at_the_end_ends_the_fit_too(good: list[Path]) -> None:
    """Four batches hold the pictures; the fifth is of the parity pictures."""
    broken = FailingExtractor(faults=[Fault(kind="nan", after=4)])
    with pytest.raises(ParityError, match="no numbers"):
        fit(good, broken, parts.settings())


class OverflowingOnBlack(SleepingExtractor):
    """One value of each black picture is `value`, as where a network's numbers grew too large."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self._value = value

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        patches = super().embed(images)
        patches[~images.any(axis=(1, 2, 3)), 20, 2] = self._value
        return patches


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e30])
def test_a_single_value_that_overflowed_names_its_picture_among_those_of_the_batch(
    tmp_path: Path, plan: str, value: float
) -> None:
    pictures = parts.write_good_parts(tmp_path)
    cv2.imwrite(str(pictures[13]), np.zeros((parts.HEIGHT, parts.WIDTH, 3), np.uint8))
    with pytest.raises(DataError, match=r"013\.png.*no numbers"):
        fit(pictures, OverflowingOnBlack(value), parts.settings(coreset_plan=PLANS[plan]))


@pytest.mark.parametrize("value", [np.inf, np.nan, 1e19])
@pytest.mark.parametrize("count", [40, 400])
def test_no_coreset_is_chosen_among_points_whose_distances_are_no_numbers(value: float, count: int) -> None:
    points = np.random.default_rng(0).standard_normal((400, 16)).astype(np.float32)
    points[7, 3] = value
    with pytest.raises(DataError, match="no numbers"):
        greedy_k_centre(points, count, 0)
    with pytest.raises(DataError, match="no numbers"):
        MergedCoreset(count / 800, 2, 0).put_forward(points)
