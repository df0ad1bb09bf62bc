"""Locally aware patch vectors from two feature maps (PatchCore, arXiv 2106.08265, section 3.1), as matrices.

Pooling and upsampling are separable and linear, so each is one small matrix applied down and across: `M @ map @ M.T`.
That form compiles, exports and runs on every device.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.backbones.extractor import EmbeddingMode

NEIGHBOURHOOD = 3
"""Side of the square of feature vectors averaged into one patch vector."""


def pooling_matrix(size: int) -> NDArray[np.float64]:
    """Average over `NEIGHBOURHOOD` neighbours, stride 1, zero padding counted: float64 [size, size]."""
    offsets = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
    return np.where(offsets <= NEIGHBOURHOOD // 2, 1.0 / NEIGHBOURHOOD, 0.0)


def bilinear_matrix(source: int, target: int) -> NDArray[np.float64]:
    """Linear interpolation from `source` to `target` points, pixel centres at halves: float64 [target, source].

    Two of them are bilinear resizing with `align_corners=False`.
    """
    positions = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    lower = np.floor(positions).astype(np.int64)
    upper = np.minimum(lower + 1, source - 1)
    weight = positions - lower
    matrix = np.zeros((target, source))
    rows = np.arange(target)
    np.add.at(matrix, (rows, lower), 1 - weight)
    np.add.at(matrix, (rows, upper), weight)
    return matrix


def nearest_matrix(source: int, target: int) -> NDArray[np.float64]:
    """Nearest-neighbour upsampling from `source` to `target` points, rounding down: float64 [target, source]."""
    matrix = np.zeros((target, source))
    matrix[np.arange(target), np.arange(target) * source // target] = 1.0
    return matrix


def coarse_matrix(mode: EmbeddingMode, source: int, target: int) -> NDArray[np.float32]:
    """Pooling on the coarse grid and then upsampling to the fine one: float32 [target, source].

    "paper" upsamples bilinearly; "modelzoo" takes the nearest, as the MindSpore ModelZoo's PatchCore does.
    """
    upsampling = bilinear_matrix if mode == "paper" else nearest_matrix
    return (upsampling(source, target) @ pooling_matrix(source)).astype(np.float32)


def embed(maps: Sequence[NDArray[np.float32]], mode: EmbeddingMode) -> NDArray[np.float32]:
    """Compute the patch vectors of one picture in numpy: what every extractor's graph must agree with.

    `maps`: the fine and the coarse output, float32 [channels, side, side].
    Returns float32 [patches, channels of both], row-major over the fine grid.
    """
    fine, coarse = maps
    side = fine.shape[1]
    pool, upsample = pooling_matrix(side), coarse_matrix(mode, coarse.shape[1], side).astype(np.float64)
    pooled = np.concatenate([pool @ fine @ pool.T, upsample @ coarse @ upsample.T])
    return pooled.reshape(pooled.shape[0], -1).T.astype(np.float32)
