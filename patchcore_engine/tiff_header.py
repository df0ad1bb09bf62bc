"""The first directory of a TIFF file (TIFF 6.0, section 2), as far as it decides how much memory a decoder takes."""

import struct
from typing import Final

from patchcore_engine.errors import UndecodableImageError

TIFF_MAGICS: Final = (b"II*\0", b"MM\0*")
BIG_TIFF_MAGICS: Final = (b"II+\0", b"MM\0+")

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES, _FORMAT = 256, 257, 258, 259, 277, 339
_STRIPS: Final = (273, 279)
_TILES: Final = (324, 325)
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_TYPE_CODES: Final = {1: "B", 3: "H", 4: "I"}
_UNSIGNED: Final = 1
_DEPTHS: Final = frozenset({1, 8, 16})
_CHANNELS: Final = frozenset({1, 3, 4})
# The most bytes that one byte unfolds to: none, LZW, deflate under its two numbers, PackBits.
_UNFOLDING: Final = {1: 1, 5: 4096, 8: 1032, 32946: 1032, 32773: 64}
# A tile may be larger than the picture, by this much.
_SMALL_TILE: Final = 1 << 20
_MOST_PARTS: Final = 1 << 20


def check_tiff(data: bytes) -> tuple[int, int, int]:
    """Return width, height, and the most pixels that the file's strips or tiles can unfold to.

    Raises UndecodableImageError for what can't be read here, and struct.error where the directory is cut off.
    """
    tags = _Directory(data)
    width, height = tags.number(_WIDTH, 0), tags.number(_HEIGHT, 0)
    samples, bits = tags.number(_SAMPLES, 1), tags.numbers(_BITS) or (1,)
    unfolding = _UNFOLDING.get(tags.number(_COMPRESSION, 1))
    if unfolding is None or samples not in _CHANNELS or set(tags.numbers(_FORMAT)) - {_UNSIGNED}:
        raise UndecodableImageError("The picture can't be decoded: it is an unusual kind of TIFF; save it as PNG.")
    if bits[0] not in _DEPTHS or len(set(bits)) > 1:
        raise UndecodableImageError("The picture can't be decoded: its samples aren't of 1, 8 or 16 bits.")
    tile = tags.number(_TILE_WIDTH, 0) * tags.number(_TILE_HEIGHT, 0)
    if tile > max(_SMALL_TILE, 2 * width * height):
        raise UndecodableImageError("The picture can't be decoded: its tiles are larger than the picture.")
    offsets, counts = (tags.numbers(tag) for tag in (_TILES if tile else _STRIPS))
    if len(offsets) != len(counts) or any(
        offset + count > len(data) for offset, count in zip(offsets, counts, strict=True)
    ):
        raise UndecodableImageError("The picture can't be decoded: it is cut off.")
    return width, height, 8 * unfolding * min(sum(counts), len(data)) // (bits[0] * samples)


class _Directory:
    """The tags of the first directory; those of unsigned numbers alone are kept."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._order = "<" if data.startswith(b"II") else ">"
        (start,) = struct.unpack_from(f"{self._order}I", data, 4)
        (count,) = struct.unpack_from(f"{self._order}H", data, start)
        entries = struct.iter_unpack(f"{self._order}HHI4s", data[start + 2 : start + 2 + 12 * count])
        self._entries = {tag: (kind, length, value) for tag, kind, length, value in entries}

    def number(self, tag: int, default: int) -> int:
        return (self.numbers(tag) or (default,))[0]

    def numbers(self, tag: int) -> tuple[int, ...]:
        """Return the values of a tag, none where it is absent."""
        kind, count, value = self._entries.get(tag, (3, 0, b""))
        if kind not in _TYPE_CODES or count > _MOST_PARTS:
            raise UndecodableImageError("The picture can't be decoded: its TIFF directory is damaged.")
        pattern = f"{self._order}{count}{_TYPE_CODES[kind]}"
        if struct.calcsize(pattern) <= 4:
            return struct.unpack_from(pattern, value)
        (offset,) = struct.unpack(f"{self._order}I", value)
        return struct.unpack_from(pattern, self._data, offset)
