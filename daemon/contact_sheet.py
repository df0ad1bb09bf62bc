"""Several pictures as tiles of one."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray


def contact_sheet(pictures: Sequence[NDArray[np.uint8]], columns: int, tile: int) -> NDArray[np.uint8]:
    """Arrange pictures, each RGB [h, w, 3] or mono [h, w], as tiles of `tile` x `tile` pixels, RGB."""
    rows = -(-len(pictures) // columns)
    gap = 4
    sheet = np.full((rows * (tile + gap) - gap, columns * (tile + gap) - gap, 3), 255, np.uint8)
    for index, picture in enumerate(pictures):
        if picture.ndim == 2:
            picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB)
        top, left = (index // columns) * (tile + gap), (index % columns) * (tile + gap)
        sheet[top : top + tile, left : left + tile] = cv2.resize(picture, (tile, tile), interpolation=cv2.INTER_AREA)
    return sheet
