"""What a search of a bank finds for pictures, wherever it runs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class PatchDistances:
    """The nearest bank vector of each patch of n pictures, and what weighs their image scores.

    `distances`: float32 [n, patches], to the nearest bank vector. `nearest`: integer [n, patches], its position.
    `around`: float32 [n, k], from the picture's worst patch to the k bank vectors nearest to its nearest one, or in
    ModelZoo's mode to its own k nearest, ascending; k may be 0 where the score isn't weighed.
    """

    distances: NDArray[np.float32]
    nearest: NDArray[np.integer]
    around: NDArray[np.float32]
