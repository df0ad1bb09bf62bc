"""Pictures kept in a bank with what the reference engine made of them, so that another engine can be held to it."""

import io
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.errors import BankDamagedError, DataError
from patchcore_engine.images import decode, encode_png
from patchcore_engine.npz import read_npz

_LARGEST_SET = 64


@dataclass(frozen=True, slots=True)
class ParitySet:
    """`pixels`: uint8 [n, s, s, 3] RGB, prepared.  By the reference engine against the bank that holds this set:
    `distances`: float32 [n, patches].  `scores`: float64 [n].
    """

    pixels: NDArray[np.uint8]
    distances: NDArray[np.float32]
    scores: NDArray[np.float64]

    def to_bytes(self) -> bytes:
        """Return an .npz file; the pictures in it are PNG."""
        pictures = {
            f"picture{number}": np.frombuffer(encode_png(pixels), np.uint8) for number, pixels in enumerate(self.pixels)
        }
        buffer = io.BytesIO()
        np.savez(buffer, distances=self.distances, scores=self.scores, **pictures)  # type: ignore[arg-type]
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, *, image_size: int, patches: int) -> Self:
        """Read what `to_bytes` made of pictures of `image_size`, `patches` each. Raises BankDamagedError."""
        try:
            arrays = read_npz(data)
            distances, scores = arrays["distances"], arrays["scores"]
            count = min(scores.size, _LARGEST_SET)
            pictures = [decode(arrays[f"picture{number}"].tobytes()) for number in range(count)]
        except (ValueError, KeyError, DataError) as error:
            raise BankDamagedError("The parity file can't be read.") from error
        fits = (
            count > 0
            and scores.dtype == np.float64
            and scores.shape == (count,)
            and distances.dtype == np.float32
            and distances.shape == (count, patches)
            and bool(np.isfinite(scores).all() and np.isfinite(distances).all())
            and all(picture.shape == (image_size, image_size, 3) for picture in pictures)
        )
        if not fits:
            raise BankDamagedError("The parity file doesn't fit the manifest.")
        return cls(np.stack(pictures), distances, scores)
