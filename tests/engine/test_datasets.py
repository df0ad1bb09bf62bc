"""What counts as a data set, and what is said about one that can't be used."""

from pathlib import Path

import numpy as np
import pytest

from patchcore_engine.datasets import (
    categories,
    evaluation_set,
    good_pictures,
    read_mask,
    training_pictures,
)
from patchcore_engine.errors import DataError, NoPicturesError
from patchcore_engine.images import encode_png


def write_picture(path: Path, height: int = 40, width: int = 50, value: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(np.full((height, width), value, np.uint8)))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("001", "000"):
        write_picture(tmp_path / "nut" / "train" / "good" / f"{name}.png")
        write_picture(tmp_path / "nut" / "test" / "good" / f"{name}.png")
        write_picture(tmp_path / "nut" / "test" / "bent" / f"{name}.png")
        write_picture(tmp_path / "nut" / "ground_truth" / "bent" / f"{name}_mask.png", value=255)
    write_picture(tmp_path / "bolt" / "train" / "good" / "000.png")
    (tmp_path / "notes").mkdir()
    return tmp_path


def test_categories_are_the_folders_with_training_or_test_pictures(data: Path) -> None:
    assert categories(data) == ["bolt", "nut"]


def test_training_pictures_come_sorted_by_name(data: Path) -> None:
    assert [p.name for p in training_pictures(data, "nut")] == ["000.png", "001.png"]


def test_an_evaluation_set_lists_good_pictures_first_and_finds_every_mask(data: Path) -> None:
    found = evaluation_set(data, "nut")
    assert [p.defect for p in found.pictures] == ["good", "good", "bent", "bent"]
    assert [p.is_good for p in found.pictures] == [True, True, False, False]
    assert found.has_masks
    assert read_mask(found.pictures[2], 40, 50).min() == 255
    assert read_mask(found.pictures[0], 40, 50).max() == 0


def test_a_missing_mask_is_named(data: Path) -> None:
    (data / "nut" / "ground_truth" / "bent" / "001_mask.png").unlink()
    with pytest.raises(DataError, match=r"001_mask\.png is missing"):
        evaluation_set(data, "nut")


def test_a_set_without_any_ground_truth_is_a_set_without_masks(data: Path) -> None:
    for mask in (data / "nut" / "ground_truth" / "bent").iterdir():
        mask.unlink()
    (data / "nut" / "ground_truth" / "bent").rmdir()
    (data / "nut" / "ground_truth").rmdir()
    assert not evaluation_set(data, "nut").has_masks


def test_a_mask_of_another_size_than_its_picture_is_named(data: Path) -> None:
    write_picture(data / "nut" / "ground_truth" / "bent" / "000_mask.png", height=20)
    with pytest.raises(DataError, match=r"000_mask\.png is 50 x 20 pixels, but .*000\.png is 50 x 40"):
        read_mask(evaluation_set(data, "nut").pictures[2], 40, 50)


def test_an_unknown_category_is_answered_with_the_known_ones(data: Path) -> None:
    with pytest.raises(NoPicturesError, match="no category screw; it holds bolt, notes, nut"):
        training_pictures(data, "screw")


def test_a_missing_data_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoPicturesError, match="absent is no folder"):
        categories(tmp_path / "absent")
    with pytest.raises(NoPicturesError, match="absent is no folder"):
        good_pictures(tmp_path / "absent")


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoPicturesError, match="holds no pictures"):
        good_pictures(tmp_path)
    with pytest.raises(NoPicturesError, match="holds no category"):
        categories(tmp_path)


def test_a_category_without_test_pictures_cannot_be_evaluated(data: Path) -> None:
    with pytest.raises(NoPicturesError, match="an evaluation needs test/good"):
        evaluation_set(data, "bolt")
    (data / "bolt" / "test" / "good").mkdir(parents=True)
    with pytest.raises(NoPicturesError, match="an evaluation needs test/good"):
        evaluation_set(data, "bolt")
