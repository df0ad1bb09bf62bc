"""Orthonormal projections that keep the length of what they leave out: points whose distances are lower bounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.nearest import ROUNDING

_ROUNDING_ROOT: Final = np.float32(ROUNDING**0.5)
# Vectors that are centred at a time: a copy of a large bank would cost as much memory again.
_ROW_BLOCK: Final = 4096


@dataclass(frozen=True, slots=True)
class ProjectedPoints:
    """Vectors of d dimensions as points z = (y, r): the projection y and the length r of the rest.

    The distance of two points is never above that of their vectors, but for rounding: |y - y'| is a part of it, and
    the rests differ by |r - r'| at least. `z`: float32 [n, k + 1].

    `blur`: float32 [n], how far each z may be off. `rounding`: float32 [n], a point's share of how far a squared
    distance may be off that is computed from lengths and a product.
    """

    z: NDArray[np.float32]
    blur: NDArray[np.float32]
    rounding: NDArray[np.float32]

    @classmethod
    def of(
        cls, y: NDArray[np.float32], squared_lengths: NDArray[np.float32], rounding: NDArray[np.float32]
    ) -> "ProjectedPoints":
        """Make points of projections [n, k] and the centred vectors' squared lengths [n], off by `rounding` or less."""
        rest = np.sqrt(np.maximum(squared_lengths - np.einsum("nk,nk->n", y, y), 0))
        # A square that is off by e has a root that is off by e / root, and by sqrt(e) at the most.
        root = np.sqrt(rounding)
        blur = root * (2 * root / np.maximum(rest + root, np.finfo(np.float32).tiny) + _ROUNDING_ROOT)
        return cls(np.column_stack([y, rest]), blur, rounding)

    @classmethod
    def together(cls, parts: Sequence["ProjectedPoints"]) -> "ProjectedPoints":
        """Return the points of all parts, one after the other."""
        columns = [(part.z, part.blur, part.rounding) for part in parts]
        return cls(*(np.concatenate(column) for column in zip(*columns, strict=True)))

    def slack(self, others: "ProjectedPoints", squared: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return how far above `squared`, float32 [n], rounding may put the squared distances of these to `others`."""
        blur = self.blur + others.blur.max()
        slack = (2 * np.sqrt(squared) + blur) * blur + self.rounding + others.rounding.max()
        return np.asarray(slack, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Projection:
    """An orthonormal projection of centred vectors.

    `mean`: float32 [d]. `basis`: float32 [d, k], k < d.
    """

    mean: NDArray[np.float32]
    basis: NDArray[np.float32]

    @property
    def dimension(self) -> int:
        return int(self.basis.shape[1])

    def __call__(self, vectors: NDArray[np.float32]) -> ProjectedPoints:
        """Return the points of `vectors`, float32 [n, d]."""
        blocks = [vectors[start : start + _ROW_BLOCK] for start in range(0, len(vectors), _ROW_BLOCK)]
        return ProjectedPoints.together([self.of_centred(block - self.mean) for block in blocks])

    def of_centred(self, centred: NDArray[np.float32]) -> ProjectedPoints:
        """Return the points of vectors less the mean, float32 [n, d]."""
        lengths = np.einsum("nd,nd->n", centred, centred)
        return ProjectedPoints.of(centred @ self.basis, lengths, np.float32(ROUNDING * len(self.mean) ** 0.5) * lengths)


def principal_projection(vectors: NDArray[np.float32], dimension: int) -> Projection:
    """Return the projection on the `dimension` principal components of `vectors`, float32 [n, d]."""
    mean = vectors.mean(axis=0)
    centred = vectors - mean
    _, components = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    return Projection(mean, np.ascontiguousarray(components[:, ::-1][:, :dimension], dtype=np.float32))
