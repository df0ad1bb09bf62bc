"""Reproducible random weights, for tests, benchmarks and dry runs without any download."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.backbones.architecture import Convolution


def random_tensors(convolutions: Iterable[Convolution], seed: int) -> dict[str, NDArray[np.float32]]:
    """Draw He-initialised kernels (arXiv 1502.01852) and BatchNorm statistics near 1 for `convolutions`.

    The last BatchNorm of a residual path can't be told from the others here, so gains below 1 keep deep sums bounded.
    """
    # RandomState's streams are frozen for good, unlike those of newer generators: the digests must not move.
    random = np.random.RandomState(seed)
    tensors = {}
    for c in convolutions:
        fan_in = c.in_channels // c.groups * c.kernel**2
        kernel = random.standard_normal((c.out_channels, c.in_channels // c.groups, c.kernel, c.kernel))
        tensors[f"{c.name}.weight"] = (kernel * np.sqrt(2.0 / fan_in)).astype(np.float32)
        tensors[f"{c.norm}.weight"] = random.uniform(0.4, 0.9, c.out_channels).astype(np.float32)
        tensors[f"{c.norm}.bias"] = (0.1 * random.standard_normal(c.out_channels)).astype(np.float32)
        tensors[f"{c.norm}.running_mean"] = (0.1 * random.standard_normal(c.out_channels)).astype(np.float32)
        tensors[f"{c.norm}.running_var"] = random.uniform(0.8, 1.2, c.out_channels).astype(np.float32)
    return tensors
