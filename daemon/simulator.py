"""A camera without a camera: it replays a folder of pictures or draws parts, and writes small data sets."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from daemon.blanks import PartKind
from daemon.defects import DEFECTS, Defect
from daemon.drawing import DrawnPart, draw_part
from patchcore_engine.errors import NoPicturesError
from patchcore_engine.images import PICTURE_SUFFIXES, encode_png, read
from patchcore_engine.path_text import path_text

Encoding = Literal["raw", "jpeg", "png"]

JPEG_QUALITY: Final = 95
_FILE_ENCODINGS: Final[dict[str, Encoding]] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}
_SET_SEEDS: Final = {"train": 0, "test": 1, "line": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedFrame:
    """One frame, ready to send: the payload, the header fields that describe it, and the part's name.

    `truth`: "good" or the defect of a drawn part; None for a file.
    """

    part: str
    payload: bytes
    header: dict[str, Any]
    truth: str | None


class SimulatedCamera:
    """Yields frames as a camera would: files of a folder in order of their paths, or drawn parts without end.

    `total`: frames until the camera is through, None for one without end.
    """

    def __init__(
        self, frames: Callable[[], Iterator[SimulatedFrame]], *, total: int | None = None, loop: bool = False
    ) -> None:
        self._frames = frames
        self._loop = loop
        self.total = None if loop else total

    @classmethod
    def replay(
        cls, folder: Path, *, encoding: Encoding | None = None, loop: bool = False, shuffle: int | None = None
    ) -> "SimulatedCamera":
        """Replay the pictures in `folder` and the folders below it; a part is named by its path below `folder`.

        `encoding` None sends PNG and JPEG files byte for byte as they are, and any other picture as PNG. `shuffle`: the
        seed of a random order, the same in each round; None keeps the order of the paths.
        Raises NoPicturesError; a file that must be decoded and can't be raises DataError when its turn comes.
        """
        paths = find_pictures(folder)
        if shuffle is not None:
            paths = [paths[index] for index in np.random.default_rng(shuffle).permutation(len(paths))]
        return cls(lambda: (_file_frame(path, folder, encoding) for path in paths), total=len(paths), loop=loop)

    @classmethod
    def drawing(
        cls,
        kind: PartKind,
        *,
        seed: int = 0,
        encoding: Encoding | None = None,
        defective_share: float = 0.25,
        size: tuple[int, int] = (480, 480),
        color: Literal["mono", "rgb"] = "rgb",
    ) -> "SimulatedCamera":
        """Draw parts of `kind` without end, `defective_share` of them defective; the same seed draws the same parts."""

        def frames() -> Iterator[SimulatedFrame]:
            for index in count():
                rng = np.random.default_rng([seed, _SET_SEEDS["line"], index])
                defect = DEFECTS[int(rng.integers(len(DEFECTS)))] if rng.random() < defective_share else None
                part = draw_part(kind, rng, defect=defect, size=size, color=color)
                payload, header = encode_frame(part.pixels, encoding or "png")
                yield SimulatedFrame(part=f"{kind}-{index:06d}", payload=payload, header=header, truth=part.truth)

        return cls(frames)

    def frames(self, limit: int | None = None) -> Iterator[SimulatedFrame]:
        """Yield frames, `limit` of them at most."""
        return islice(self._rounds(), limit)

    def _rounds(self) -> Iterator[SimulatedFrame]:
        yield from self._frames()
        while self._loop:
            yield from self._frames()


def find_pictures(folder: Path) -> list[Path]:
    """Return all pictures in `folder` and below, sorted by path. Raises NoPicturesError."""
    if not folder.is_dir():
        raise NoPicturesError(f"{folder} is no folder.")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file())
    if not paths:
        raise NoPicturesError(f"{folder} holds no pictures ({', '.join(sorted(PICTURE_SUFFIXES))}).")
    return paths


def encode_frame(pixels: NDArray[np.uint8], encoding: Encoding) -> tuple[bytes, dict[str, Any]]:
    """Return payload and header fields of `pixels`, uint8 [h, w] mono or [h, w, 3] RGB."""
    if encoding == "raw":
        color = "mono" if pixels.ndim == 2 else "rgb"
        return pixels.tobytes(), {"encoding": "raw", "shape": pixels.shape, "dtype": "u1", "color": color}
    if encoding == "png":
        return encode_png(pixels), {"encoding": "png"}
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return data.tobytes(), {"encoding": "jpeg"}


def _file_frame(path: Path, folder: Path, encoding: Encoding | None) -> SimulatedFrame:
    stored = _FILE_ENCODINGS.get(path.suffix.lower())
    if stored is not None and encoding in (None, stored):
        payload, header = path.read_bytes(), {"encoding": stored}
    else:
        payload, header = encode_frame(read(path), encoding or "png")
    part = path_text(path.relative_to(folder).as_posix())
    return SimulatedFrame(part=part, payload=payload, header=header, truth=None)


def write_data_set(
    folder: Path,
    kind: PartKind,
    *,
    train_good: int,
    test_good: int,
    test_defective: int,
    seed: int = 0,
    size: tuple[int, int] = (480, 480),
    advance: Callable[[int], None] = lambda _: None,
) -> Path:
    """Draw a data set in MVTec AD layout into `folder`/`kind` and return that folder.

    train/good, test/good, test/<defect> and ground_truth/<defect>; the defects take turns. `advance(1)` follows each
    picture. The same arguments write the same bytes.
    """
    category = folder / kind
    tasks: list[tuple[str, Defect | None, int]] = [("train", None, index) for index in range(train_good)]
    tasks += [("test", None, index) for index in range(test_good)]
    tasks += [("test", DEFECTS[index % len(DEFECTS)], test_good + index) for index in range(test_defective)]

    def write(task: tuple[str, Defect | None, int]) -> None:
        split, defect, index = task
        rng = np.random.default_rng([seed, _SET_SEEDS[split], index])
        _write_part(category, split, draw_part(kind, rng, defect=defect, size=size), index)

    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="draw") as pool:
        for _ in pool.map(write, tasks):
            advance(1)
    return category


def _write_part(category: Path, split: str, part: DrawnPart, index: int) -> None:
    picture = category / split / part.truth / f"{index:03d}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(encode_png(part.pixels))
    if part.defect is not None:
        mask = category / "ground_truth" / part.defect / f"{index:03d}_mask.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        mask.write_bytes(encode_png(part.mask.astype(np.uint8) * 255))
