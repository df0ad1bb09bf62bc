"""The zlib stream of a PNG, in a file that is sound around it: refused, or the pixels that OpenCV reads."""

import zlib
from collections.abc import Iterator

import cv2
import numpy as np

from patchcore_engine.errors import DataError
from patchcore_engine.picture_header import check_picture
from tests.engine.picture_bombs import folded_nothing, folded_zeros, png

_COLOURS = ((0, 1), (0, 8), (0, 16), (2, 8), (3, 2), (4, 8), (6, 16))


def seeds() -> Iterator[bytes]:
    for number in range(len(_COLOURS)):
        for level in (0, 1, 9):
            yield bytes([number, 9, 7, number % 2]) + zlib.compress(bytes(range(256)) * 3, level)
    yield bytes([1, 9, 7, 0]) + folded_zeros(1100)
    yield bytes([1, 9, 7, 0]) + folded_nothing(16)


def one_input(data: bytes) -> None:
    if len(data) < 5:
        return
    colour, depth = _COLOURS[data[0] % len(_COLOURS)]
    whole = png(data[1], data[2], colour=colour, depth=depth, interlaced=bool(data[3] & 1), folded=data[4:])
    try:
        checked = check_picture(whole)
    except DataError as error:
        assert len(str(error)) < 300
        return
    assert len(checked) <= 17 * len(whole)
    expected, found = (
        cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
        for file in (whole, checked)
    )
    if expected is None or found is None:
        assert expected is found
    else:
        assert np.array_equal(expected, found)
