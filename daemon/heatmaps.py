"""Heat maps as they travel: always on the bank's fixed scale, never scaled by their own extremes."""

import struct
from itertools import chain
from typing import Final, Literal

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from daemon.inspection import Judgement
from daemon.messages import HeatmapHeader, Verdict
from patchcore_engine.images import encode_png
from patchcore_engine.png_file import PNG_SIGNATURE, chunk
from patchcore_engine.scoring import overlay

HeatmapKind = Literal["png", "overlay", "float16"]

_FILTER_UP: Final = 2
_FAST: Final = 1


def encode_heatmap(verdict: Verdict, judgement: Judgement, kind: HeatmapKind) -> tuple[HeatmapHeader, bytes]:
    """Return the heat map of a judged part as header and payload."""
    found = judgement.inspection
    height, width = found.anomaly_map.shape
    header = HeatmapHeader(
        camera=verdict.camera,
        stream=verdict.stream,
        seq=verdict.seq,
        offset=verdict.offset,
        encoding=kind,
        height=height,
        width=width,
        rect=(found.rect.x, found.rect.y, found.rect.width, found.rect.height),
        frame_height=found.frame_height,
        frame_width=found.frame_width,
    )
    if kind == "float16":
        return header, found.anomaly_map.astype(np.dtype("<f2")).tobytes()
    if kind == "overlay":
        return header, draw_overlay(judgement)
    return header, encode_grey_png(judgement.recipe.inspector.heat_levels(found))


def encode_grey_png(levels: NDArray[np.uint8]) -> bytes:
    """Encode uint8 [h, w] as PNG (RFC 2083), each row as its difference to the one above.

    A heat map is smooth and mostly 0: with zlib this takes 2 to 5 times as long for a tenth more bytes; OpenCV's
    encoder, which weighs five filters for every row, takes longer still.
    """
    height, width = levels.shape
    rows = np.empty((height, 1 + width), dtype=np.uint8)
    rows[:, 0] = _FILTER_UP
    rows[0, 1:] = levels[0]
    np.subtract(levels[1:], levels[:-1], out=rows[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", isal_zlib.compress(rows.data, _FAST)), (b"IEND", b""))
    return b"".join([PNG_SIGNATURE, *chain.from_iterable(chunk(kind, [data]) for kind, data in chunks)])


def draw_overlay(judgement: Judgement) -> bytes:
    """Return the heat map over the picture as the engine saw it, as PNG."""
    levels = judgement.recipe.inspector.heat_levels(judgement.inspection)
    return encode_png(overlay(judgement.image.pixels, levels))
