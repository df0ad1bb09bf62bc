"""BatchNorm folded into the convolution before it, once, when the weights are loaded."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.backbones.architecture import Convolution


@dataclass(frozen=True, slots=True)
class FoldedConvolution:
    """`kernel`: float32 [out, in / groups, k, k].  `bias`: float32 [out]."""

    shape: Convolution
    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]


def fold(
    convolutions: Iterable[Convolution], tensors: Mapping[str, NDArray[np.float32]], epsilon: float
) -> dict[str, FoldedConvolution]:
    """Fold each convolution with its BatchNorm of `epsilon` (arXiv 1502.03167, inference form), in double precision.

    Returns them by the convolution's name.
    """
    folded = {}
    for c in convolutions:
        kernel = tensors[f"{c.name}.weight"].astype(np.float64)
        gain = tensors[f"{c.norm}.weight"] / np.sqrt(tensors[f"{c.norm}.running_var"].astype(np.float64) + epsilon)
        bias = tensors[f"{c.norm}.bias"] - tensors[f"{c.norm}.running_mean"] * gain
        folded[c.name] = FoldedConvolution(
            c, (kernel * gain[:, None, None, None]).astype(np.float32), bias.astype(np.float32)
        )
    return folded


def fold_scale(stem: FoldedConvolution, std: tuple[float, float, float]) -> FoldedConvolution:
    """Fold the division by `std` and by 255 into the first convolution.

    The mean can't be folded too: zero padding stands for the mean colour, so it must be subtracted before padding.
    """
    scale = 1.0 / (255.0 * np.asarray(std, dtype=np.float64))
    return FoldedConvolution(stem.shape, (stem.kernel * scale[None, :, None, None]).astype(np.float32), stem.bias)
