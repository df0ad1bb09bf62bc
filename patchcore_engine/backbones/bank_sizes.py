"""How large a bank is on the device, and how many pictures are searched in it at once."""

from collections.abc import Sequence
from typing import Final

# Banks are filled up to a multiple of this, so that one fitted anew mostly takes the graphs that are compiled.
VECTORS_STEP: Final = 512
# The product of patches and bank vectors that one graph makes; a CPU holds it four times, an NPU twice.
PRODUCT_BYTES: Final = 128 << 20

_FLOAT_BYTES: Final = 4


def filled_up(vectors: int) -> int:
    """Return how many vectors a bank of so many has on the device."""
    return -(-vectors // VECTORS_STEP) * VECTORS_STEP


def product_bytes(vectors: int, patches: int, pictures: int) -> int:
    """Return the size of the product for so many pictures of `patches` each."""
    return _FLOAT_BYTES * pictures * patches * filled_up(vectors)


def pictures_at_once(vectors: int, patches: int, batch_sizes: Sequence[int]) -> int:
    """Return the largest of `batch_sizes` whose product isn't too large, or the smallest."""
    fitting = [size for size in batch_sizes if product_bytes(vectors, patches, size) <= PRODUCT_BYTES]
    return max(fitting, default=min(batch_sizes))
