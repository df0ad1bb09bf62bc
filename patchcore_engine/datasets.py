"""Pictures on disk: the MVTec AD layout, and a plain folder of good pictures.

    DIR/<category>/train/good/*.png
    DIR/<category>/test/good/*.png
    DIR/<category>/test/<defect>/*.png
    DIR/<category>/ground_truth/<defect>/<picture's stem>_mask.png

P. Bergmann et al., "MVTec AD - A Comprehensive Real-World Dataset for Unsupervised Anomaly Detection", CVPR 2019.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.errors import DataError, NoPicturesError
from patchcore_engine.images import list_pictures, read
from patchcore_engine.path_text import path_text

GOOD = "good"


@dataclass(frozen=True, slots=True)
class LabelledPicture:
    """One picture of a test set: its kind of defect ("good" for none) and the mask that shows where it is, if known."""

    path: Path
    defect: str
    mask_path: Path | None

    @property
    def is_good(self) -> bool:
        return self.defect == GOOD


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """The test pictures of one category, the good ones first, then by defect and name."""

    category: str
    pictures: tuple[LabelledPicture, ...]

    @property
    def has_masks(self) -> bool:
        """Whether every defective picture has its mask, which pixel figures need."""
        return all(p.is_good or p.mask_path is not None for p in self.pictures)


def categories(data: Path) -> list[str]:
    """Return the names of the folders in `data` that hold train/good or test, sorted."""
    found = [p.name for p in _folders(data) if (p / "train" / GOOD).is_dir() or (p / "test").is_dir()]
    if not found:
        raise NoPicturesError(
            f"{data} holds no category: each is a folder with train/good and test, as in MVTec AD. "
            "For a plain folder of good pictures use --good."
        )
    return found


def training_pictures(data: Path, category: str) -> list[Path]:
    """Return the good training pictures of `category`, sorted by name. Raises NoPicturesError."""
    _require_category(data, category)
    return good_pictures(data / category / "train" / GOOD)


def good_pictures(folder: Path) -> list[Path]:
    """Return the pictures directly in `folder`, sorted by name. Raises NoPicturesError if there are none."""
    if not folder.is_dir():
        raise NoPicturesError(f"{folder} is no folder: name one that holds pictures of good parts.")
    pictures = list_pictures(folder)
    if not pictures:
        raise NoPicturesError(f"{folder} holds no pictures (.png, .jpg, .bmp, .tif or .webp).")
    return pictures


def evaluation_set(data: Path, category: str) -> EvaluationSet:
    """Return the test pictures of `category` with their masks.

    A set without a ground_truth folder is a set without masks; a mask missing from that folder is an error.
    Raises NoPicturesError and DataError.
    """
    _require_category(data, category)
    test = data / category / "test"
    if not test.is_dir():
        raise NoPicturesError(f"{test} is no folder: an evaluation needs test/good and test/<defect>.")
    folders = sorted(_folders(test), key=lambda folder: (folder.name != GOOD, folder.name))
    ground_truth = data / category / "ground_truth"
    pictures = [
        LabelledPicture(
            path, path_text(folder.name), None if folder.name == GOOD else _mask_of(path, ground_truth / folder.name)
        )
        for folder in folders
        for path in list_pictures(folder)
    ]
    if not pictures:
        raise NoPicturesError(f"{test} holds no pictures: an evaluation needs test/good and test/<defect>.")
    return EvaluationSet(path_text(category), tuple(pictures))


def read_mask(picture: LabelledPicture, frame_height: int, frame_width: int) -> NDArray[np.uint8]:
    """Return the ground truth of `picture`, uint8 [frame_height, frame_width], 0 where the part is good.

    Raises DataError if it can't be read or its size isn't the picture's.
    """
    if picture.mask_path is None:
        return np.zeros((frame_height, frame_width), np.uint8)
    mask = read(picture.mask_path)
    if mask.ndim == 3:
        mask = mask.max(axis=2)
    if mask.shape != (frame_height, frame_width):
        raise DataError(
            f"{path_text(picture.mask_path)} is {mask.shape[1]} x {mask.shape[0]} pixels, "
            f"but {path_text(picture.path)} is {frame_width} x {frame_height}."
        )
    return mask


def _mask_of(path: Path, folder: Path) -> Path | None:
    if not folder.parent.is_dir():
        return None
    for mask in (folder / f"{path.stem}_mask.png", folder / f"{path.stem}.png"):
        if mask.is_file():
            return mask
    missing = folder / f"{path.stem}_mask.png"
    raise DataError(f"{path_text(path)} has no mask: {path_text(missing)} is missing.")


def _require_category(data: Path, category: str) -> None:
    if (data / category).is_dir():
        return
    known = ", ".join(p.name for p in _folders(data)) or "no folders"
    raise NoPicturesError(f"{data} holds no category {category}; it holds {known}.")


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise NoPicturesError(f"{folder} is no folder.")
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
