"""PNG files, read up to the decoder: their chunks, and pixels unfolded with a bound.

A decoder unfolds all that a PNG's pixels hold, also what comes behind the last of them: a megabyte of file costs it two
seconds. So it gets pixels here that are known to end. Those that fit are unfolded once and handed on stored, which is
less work in all than leaving them to libpng, whose inflate is two to three times slower than ISA-L's. Sources: PNG (RFC
2083), zlib (RFC 1950), deflate (RFC 1951).
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from isal import isal_zlib
from isal.igzip_lib import IsalError

from patchcore_engine.errors import UndecodableImageError

PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

# Deflate unfolds one byte to at most this many.
_DEFLATE: Final = 1032
# libpng writes 8 KiB to a chunk.
_MOST_CHUNKS: Final = 50_000
_SAMPLES: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS: Final = frozenset({1, 2, 4, 8, 16})
# Notes that are unfolded while they are read, and that decide no pixel.
_FOLDED_NOTES: Final = frozenset({b"zTXt", b"iTXt", b"iCCP"})
_ANIMATION: Final = frozenset({b"acTL", b"fcTL", b"fdAT"})
# Where each pass of an interlaced picture begins and how far apart its pixels are: left, top, across, down.
_WHOLE: Final = ((0, 0, 1, 1),)
_ADAM7: Final = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
# Pixels are handed on stored up to this size. With the file and the picture they take less than DECODING_BYTES.
_MOST_STORED: Final = 64 * 2**20
# A sensor's noise keeps pictures below this ratio. Smoother ones are faster unfolded by libpng, a second time.
_NOISY: Final = 16
# What may be kept of pixels whose beginning is smoother, until they are seen to end.
_SMOOTH_BYTES: Final = 8 * 2**20
# Pixels that fold to less than a sixteenth, beyond which they are no camera's: half a megabyte of file may be 500 MB.
_MOST_SMOOTH: Final = 48 * 2**20
_FOLDED_PORTION: Final = 256 * 1024
_STORED_BLOCK: Final = 65535
_UNFOLDED_PIECE: Final = 4 * _STORED_BLOCK
_ZLIB_HEADER: Final = b"\x78\x01"
_LENGTH: Final = struct.Struct(">I")
_BLOCK_HEADER: Final = struct.Struct("<BHH")
# Of deflate: the final one, with fixed codes, that holds nothing.
_LAST_BLOCK: Final = b"\x03\0"


@dataclass(frozen=True, slots=True)
class PngFile:
    """`before` and `behind`: the file's parts around its pixels, which are a zlib stream in the parts `folded`.

    `bits`: of one pixel. `unfolded_bytes`: of its rows with their filters, unfolded.
    """

    width: int
    height: int
    bits: int
    unfolded_bytes: int
    before: list[memoryview]
    folded: list[memoryview]
    behind: list[memoryview]

    @property
    def most_pixels(self) -> int:
        """The most pixels that a file of this length can hold."""
        return 8 * _DEFLATE * self._folded_bytes // self.bits

    @property
    def _folded_bytes(self) -> int:
        return sum(map(len, self.folded))

    def decodable(self) -> bytes | memoryview:
        """Return the file to decode in its place. Raises UndecodableImageError for pixels that hold more than theirs.

        They are unfolded up to their end for that, in at most 18 MiB and 16 bytes for each byte of the file.
        """
        most = _lengthened(self.unfolded_bytes)
        keeps = self.unfolded_bytes <= min(_MOST_STORED, _NOISY * self._folded_bytes)
        stored = _StoredPixels(self.before, self._most_stored(most)) if keeps else None
        size = 0
        for read, piece in _unfolded(self.folded):
            size += len(piece)
            if size > most or read > _lengthened(size):
                raise UndecodableImageError("The picture can't be decoded: it holds more than its pixels.")
            if size > _MOST_SMOOTH + _NOISY * read:
                raise UndecodableImageError(
                    f"The picture can't be decoded: {_MOST_SMOOTH >> 20} MiB of its pixels and more are all but equal."
                )
            if size > _SMOOTH_BYTES + _NOISY * read:
                stored = None
            if stored is not None:
                stored.append(piece)
        if size < self.unfolded_bytes:
            raise UndecodableImageError("The picture can't be decoded: it holds less than its pixels.")
        if stored is not None:
            return stored.finish(self.behind)
        return b"".join([*self.before, *chunk(b"IDAT", self.folded), *self.behind])

    def _most_stored(self, pixels: int) -> int:
        """Return the most bytes that the file has with so many bytes of pixels stored."""
        around = sum(map(len, self.before)) + sum(map(len, self.behind))
        blocks = pixels // _STORED_BLOCK + self._folded_bytes // _FOLDED_PORTION + 2
        return around + pixels + _BLOCK_HEADER.size * blocks + 32


class _StoredPixels:
    """A file whose pixels are stored in deflate's blocks, not folded; written piece by piece, as they are unfolded."""

    def __init__(self, before: Iterable[memoryview], most_bytes: int) -> None:
        # Its pages are taken as they are written; NumPy asks for large ones: small ones cost a fifth of the decoding.
        self._file, self._end = np.empty(most_bytes, np.uint8).data, 0
        for part in before:
            self._write(part)
        self._begin, self._end = self._end, self._end + _LENGTH.size
        self._check, self._sum = 0, 1
        self._write_checked(b"IDAT")
        self._write_checked(_ZLIB_HEADER)

    def append(self, piece: bytes) -> None:
        self._sum = isal_zlib.adler32(piece, self._sum)
        view = memoryview(piece)
        for begin in range(0, len(view), _STORED_BLOCK):
            block = view[begin : begin + _STORED_BLOCK]
            self._write_checked(_BLOCK_HEADER.pack(0, len(block), len(block) ^ 0xFFFF))
            self._write_checked(block)

    def finish(self, behind: Iterable[memoryview]) -> memoryview:
        """Return the file."""
        self._write_checked(_LAST_BLOCK)
        self._write_checked(self._sum.to_bytes(4))
        _LENGTH.pack_into(self._file, self._begin, self._end - self._begin - 2 * _LENGTH.size)
        self._write(self._check.to_bytes(4))
        for part in behind:
            self._write(part)
        return self._file[: self._end]

    def _write_checked(self, part: bytes | memoryview) -> None:
        self._check = isal_zlib.crc32(part, self._check)
        self._write(part)

    def _write(self, part: bytes | memoryview) -> None:
        end = self._end + len(part)
        self._file[self._end : end] = part
        self._end = end


def chunk(kind: bytes, parts: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """Return the parts of a chunk of this `kind` that holds `parts`."""
    check = isal_zlib.crc32(kind)
    for part in parts:
        check = isal_zlib.crc32(part, check)
    return [sum(map(len, parts)).to_bytes(4), kind, *parts, check.to_bytes(4)]


def read_png(data: bytes) -> PngFile:
    """Read the chunks of a PNG; nothing is unfolded.

    Raises UndecodableImageError for what can't be read here, and struct.error where the file is cut off.
    """
    length, kind, width, height, depth, colour, interlaced = struct.unpack_from(">I4sIIBBxxB", data, len(PNG_SIGNATURE))
    if kind != b"IHDR" or length != 13 or colour not in _SAMPLES or depth not in _DEPTHS:
        raise UndecodableImageError("The picture can't be decoded: its PNG header is damaged.")
    view = memoryview(data)
    before, pixels, behind = [view[: len(PNG_SIGNATURE)]], list[memoryview](), list[memoryview]()
    ended = False
    for kind, begin, end in _chunks(data):
        if kind == b"IDAT":
            if ended:
                raise UndecodableImageError("The picture can't be decoded: its pixels are in several places.")
            pixels.append(view[begin + 4 : end])
            continue
        ended = bool(pixels)
        if kind in _ANIMATION:
            raise UndecodableImageError("The picture can't be decoded: it is an animation.")
        if kind not in _FOLDED_NOTES:
            (behind if ended else before).append(view[begin:end])
    if any(isal_zlib.crc32(part[:-4]) != int.from_bytes(part[-4:]) for part in pixels):
        raise UndecodableImageError("The picture can't be decoded: its pixels are damaged.")
    bits = depth * _SAMPLES[colour]
    unfolded = sum(_pass_bytes(width, height, bits, *one) for one in (_ADAM7 if interlaced else _WHOLE))
    return PngFile(width, height, bits, unfolded, before, [part[4:-4] for part in pixels], behind)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, begin and end of each chunk up to the last one."""
    begin = len(PNG_SIGNATURE)
    for _ in range(_MOST_CHUNKS):
        length, kind = struct.unpack_from(">I4s", data, begin)
        end = begin + length + 12
        if end > len(data):
            raise UndecodableImageError("The picture can't be decoded: it is cut off.")
        yield kind, begin, end
        if kind == b"IEND":
            return
        begin = end
    raise UndecodableImageError("The picture can't be decoded: it is in too many pieces.")


def _pass_bytes(width: int, height: int, bits: int, left: int, top: int, across: int, down: int) -> int:
    """Return the bytes of a pass: its rows, each of whole bytes behind one that names its filter."""
    columns, rows = -(-(width - left) // across), -(-(height - top) // down)
    return rows * (1 + -(-columns * bits // 8)) if columns > 0 else 0


def _lengthened(size: int) -> int:
    """Return the bytes that `size` bytes of pixels may be: deflate with fixed codes lengthens by an eighth.

    Blocks that hold less than they are long only take time; so do bytes behind the pixels, which libpng passes over.
    """
    return size + size // 8 + 4096


def _unfolded(folded: Iterable[memoryview]) -> Iterator[tuple[int, bytes]]:
    """Yield the pieces of a zlib stream up to its end, unfolded, each with how much of `folded` has been read for it.

    Raises UndecodableImageError where the stream is damaged or has no end.
    """
    stream, given = isal_zlib.decompressobj(), 0
    try:
        for rest in _portions(folded):
            given, full = given + len(rest), True
            while full:
                piece = stream.decompress(rest, _UNFOLDED_PIECE)
                rest, full = stream.unconsumed_tail, len(piece) == _UNFOLDED_PIECE
                yield given - len(rest), piece
                if stream.eof:
                    return
    except IsalError as error:  # type: ignore[misc]  # its stub makes it no class
        raise UndecodableImageError("The picture can't be decoded: its pixels are damaged.") from error
    raise UndecodableImageError("The picture can't be decoded: its pixels are cut off.")


def _portions(parts: Iterable[memoryview]) -> Iterator[bytes]:
    """Yield `parts`, which may be short or long, in portions of _FOLDED_PORTION bytes or somewhat more."""
    portion, size = list[memoryview](), 0
    for part in parts:
        for begin in range(0, len(part), _FOLDED_PORTION):
            portion.append(part[begin : begin + _FOLDED_PORTION])
            size += len(portion[-1])
            if size >= _FOLDED_PORTION:
                yield b"".join(portion)
                portion, size = [], 0
    yield b"".join(portion)
