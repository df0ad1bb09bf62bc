"""One frame as a person at a desk wants to see it: the heat over it, and a box around each defect region."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from patchcore_engine.inspector import Inspection
from patchcore_engine.scoring import overlay

_BOX: Final = (255, 255, 255)
_BOX_EDGE: Final = (0, 0, 0)
_BOXES_PER_SIDE: Final = 320


def frame_overlay(image: NDArray[np.uint8], inspection: Inspection, levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the whole frame with the heat map where it was judged, uint8 [h, w, 3] RGB.

    `image`: the frame, uint8 [h, w, 3] RGB or [h, w] mono. `levels`: the heat levels of `inspection`.
    """
    frame = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image.copy()
    rect = inspection.rect
    top, left = max(round(rect.y), 0), max(round(rect.x), 0)
    window = np.s_[top : round(rect.y + rect.height), left : round(rect.x + rect.width)]
    frame[window] = overlay(np.ascontiguousarray(frame[window]), levels)
    thickness = max(1, min(frame.shape[:2]) // _BOXES_PER_SIDE)
    for region in inspection.regions:
        corners = (region.x, region.y), (region.x + region.width - 1, region.y + region.height - 1)
        cv2.rectangle(frame, *corners, _BOX_EDGE, thickness + 2)
        cv2.rectangle(frame, *corners, _BOX, thickness)
    return np.asarray(frame, dtype=np.uint8)
