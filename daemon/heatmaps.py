"""Heat maps as they travel: always on the bank's fixed scale, never scaled by their own extremes."""

from typing import Literal

import numpy as np

from daemon.inspection import Judgement
from daemon.messages import HeatmapHeader, Verdict
from patchcore_engine.images import encode_png
from patchcore_engine.scoring import overlay

HeatmapKind = Literal["png", "overlay", "float16"]


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
    return header, encode_png(judgement.recipe.inspector.heat_levels(found))


def draw_overlay(judgement: Judgement) -> bytes:
    """Return the heat map over the picture as the engine saw it, as PNG."""
    levels = judgement.recipe.inspector.heat_levels(judgement.inspection)
    return encode_png(overlay(judgement.image.pixels, levels))
