"""What a picture file says of itself, checked before a decoder takes memory for it.

Decoders believe a file: 141 bytes of PNG that announce a chunk of 2 GiB cost OpenCV 5.0 2 GiB and three seconds, 300
bytes of JPEG that claim 8000 x 8000 pixels come out as a grey part. Here the parts of a file must lie within it and its
pixels within what its bytes can hold. Sources: PNG (RFC 2083), JPEG (ITU T.81), WebP (RFC 9649), Microsoft's BMP.
"""

import struct
from collections.abc import Callable
from typing import Final

from patchcore_engine import MAX_IMAGE_PIXELS
from patchcore_engine.errors import ImageTooLargeError, UndecodableImageError
from patchcore_engine.png_file import PNG_SIGNATURE, read_png
from patchcore_engine.tiff_header import BIG_TIFF_MAGICS, TIFF_MAGICS, check_tiff

JPEG_SIGNATURE: Final = b"\xff\xd8\xff"

# Every 8 x 8 block of a Huffman-coded JPEG takes a bit at least.
_JPEG_PIXELS_PER_BYTE: Final = 8 * 64
# WebP needs no bit at all for a picture of one colour; below _FREE_PIXELS that may be.
_WEBP_PIXELS_PER_BYTE: Final = 4096
_FREE_PIXELS: Final = 4_000_000
# Encoders write ten or so; each costs a pass over the whole picture.
_MOST_SCANS: Final = 64
_PROGRESSIVE: Final = 0xC2
_JPEG_FRAMES: Final = frozenset({0xC0, 0xC1, _PROGRESSIVE})
_JPEG_OTHER_FRAMES: Final = frozenset(range(0xC3, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE: Final = frozenset({0x01, *range(0xD0, 0xD8)})
_WEBP_ANIMATION: Final = 0x02


def check_picture(data: bytes) -> bytes | memoryview:
    """Return what of an encoded picture (PNG, JPEG, BMP, TIFF, WebP) may be decoded: all but a PNG's folded notes.

    Raises ImageTooLargeError for more pixels than MAX_IMAGE_PIXELS, UndecodableImageError for a file of another
    format, one that is cut off, and one whose pixels can't be in its bytes.
    """
    try:
        for signatures, check in _CHECKS:
            if data.startswith(signatures):
                return check(data)
    except (struct.error, IndexError) as error:
        raise UndecodableImageError("The picture can't be decoded: it ends in its header.") from error
    raise UndecodableImageError("The picture can't be decoded: it is damaged or of no known format.")


def _check_size(width: int, height: int, most: int) -> None:
    """Raise unless width x height pixels are within the limit and within the `most` that the file's bytes can hold."""
    if width < 1 or height < 1:
        raise UndecodableImageError("The picture can't be decoded: it states no size.")
    if width * height > MAX_IMAGE_PIXELS:
        raise ImageTooLargeError(f"The picture holds more than {MAX_IMAGE_PIXELS:,} pixels.")
    if width * height > most:
        raise UndecodableImageError(
            f"The picture can't be decoded: it claims {width} x {height} pixels, which its bytes can't hold."
        )


def _check_png(data: bytes) -> bytes | memoryview:
    png = read_png(data)
    _check_size(png.width, png.height, png.most_pixels)
    return png.decodable()


def _check_jpeg(data: bytes) -> bytes:
    position, frame, progressive = 2, b"", False
    while (marker := data[position + 1]) != 0xDA:
        if data[position] != 0xFF:
            raise UndecodableImageError("The picture can't be decoded: it is a damaged JPEG.")
        if marker == 0xFF:
            position += 1
        elif marker in _JPEG_BARE:
            position += 2
        else:
            if marker in _JPEG_OTHER_FRAMES or (marker in _JPEG_FRAMES and frame):
                raise UndecodableImageError("The picture can't be decoded: it is an unusual kind of JPEG.")
            (length,) = struct.unpack_from(">H", data, position + 2)
            if marker in _JPEG_FRAMES:
                frame, progressive = data[position + 4 : position + 2 + length], marker == _PROGRESSIVE
            position += 2 + max(length, 2)
    height, width = struct.unpack_from(">HH", frame, 1)
    _check_size(width, height, _JPEG_PIXELS_PER_BYTE * (len(data) - position))
    # Neither marker can occur inside the coded pixels.
    if data.rfind(b"\xff\xd9") < position:
        raise UndecodableImageError("The picture can't be decoded: it is cut off.")
    components, in_first_scan = frame[5], data[position + 4]
    one_scan = not progressive and in_first_scan == components
    if not one_scan and data.count(b"\xff\xda", position) > _MOST_SCANS:
        raise UndecodableImageError("The picture can't be decoded: it is a JPEG of too many scans.")
    return data


def _check_bmp(data: bytes) -> bytes:
    offset, size = struct.unpack_from("<II", data, 10)
    if size < 40:
        raise UndecodableImageError("The picture can't be decoded: it is an unusual kind of BMP.")
    width, height, _planes, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    if compression not in (0, 3) or bits not in (1, 4, 8, 16, 24, 32):
        raise UndecodableImageError("The picture can't be decoded: it is a compressed BMP; save it as PNG.")
    width, height = abs(width), abs(height)
    row = max(-(-width * bits // 32) * 4, 1)
    _check_size(width, height, max(len(data) - offset, 0) // row * width)
    return data


def _check_webp(data: bytes) -> bytes:
    size, kind, chunk = struct.unpack_from("<4xI4x4sI", data)
    if size + 8 > len(data) + 1 or chunk + 20 > len(data):
        raise UndecodableImageError("The picture can't be decoded: it is cut off.")
    match kind:
        case b"VP8X":
            if data[20] & _WEBP_ANIMATION:
                raise UndecodableImageError("The picture can't be decoded: it is an animation.")
            width = 1 + int.from_bytes(data[24:27], "little")
            height = 1 + int.from_bytes(data[27:30], "little")
        case b"VP8L":
            (bits,) = struct.unpack_from("<I", data, 21)
            width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        case b"VP8 ":
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
        case _:
            raise UndecodableImageError("The picture can't be decoded: it is an unusual kind of WebP.")
    _check_size(width, height, _FREE_PIXELS + _WEBP_PIXELS_PER_BYTE * len(data))
    return data


def _check_tiff(data: bytes) -> bytes:
    _check_size(*check_tiff(data))
    return data


def _refuse_big_tiff(_data: bytes) -> bytes:
    raise UndecodableImageError("The picture can't be decoded: it is a BigTIFF; save it as TIFF or PNG.")


_CHECKS: Final[tuple[tuple[bytes | tuple[bytes, ...], Callable[[bytes], bytes | memoryview]], ...]] = (
    (PNG_SIGNATURE, _check_png),
    (JPEG_SIGNATURE, _check_jpeg),
    (b"BM", _check_bmp),
    (TIFF_MAGICS, _check_tiff),
    (BIG_TIFF_MAGICS, _refuse_big_tiff),
    (b"RIFF", _check_webp),
)
