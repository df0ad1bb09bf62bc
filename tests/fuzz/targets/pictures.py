"""Pictures of every format: pixels within the limits, or one of the engine's errors."""

from collections.abc import Iterator

import cv2
import numpy as np

from patchcore_engine import images
from patchcore_engine.errors import DataError
from patchcore_engine.picture_header import check_picture
from tests.engine.picture_bombs import BOMBS

_LONG = ("scans", "pieces", "unfolds", "zeros", "nothing", "one colour")
# Larger ones are read as well; they only take time.
_DECODED_BYTES = 1000


def seeds() -> Iterator[bytes]:
    picture = np.arange(12 * 9, dtype=np.uint8).reshape(9, 12)
    for suffix in (".png", ".jpg", ".bmp", ".tif", ".webp"):
        yield cv2.imencode(suffix, picture)[1].tobytes()
        yield cv2.imencode(suffix, np.dstack([picture] * 3))[1].tobytes()
    yield cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    for name, bomb in BOMBS.items():
        if not any(word in name for word in _LONG):
            yield bomb()


def one_input(data: bytes) -> None:
    try:
        checked = check_picture(data)
    except DataError as error:
        assert len(str(error)) < 300
        return
    # A PNG's pixels may be handed on unfolded.
    assert len(checked) <= 17 * len(data)
    try:
        picture = images.decode(data) if len(data) < _DECODED_BYTES else np.zeros((1, 1), np.uint8)
    except DataError:
        return
    assert picture.dtype == np.uint8
    assert picture.ndim == 2 or picture.shape[2] == 3
