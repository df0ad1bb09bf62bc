"""A PNG's pixels are unfolded once, up to their end, and reach the decoder as they were."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from patchcore_engine import images
from patchcore_engine.errors import UndecodableImageError
from patchcore_engine.picture_header import check_picture
from patchcore_engine.png_file import PNG_SIGNATURE
from tests.engine.picture_bombs import chunk, folded_zeros, png

SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
PALETTE = chunk(b"PLTE", bytes(range(256)) * 3)
NOTES = b"".join(chunk(kind, b"k\0\0" + bytes(90)) for kind in (b"zTXt", b"iTXt", b"iCCP"))


def opencv(data: bytes | memoryview) -> NDArray[np.uint8] | NDArray[np.uint16] | None:
    """What OpenCV makes of a file without our help."""
    decoded: NDArray[np.uint8] | NDArray[np.uint16] | None
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    return decoded


def passes(width: int, height: int, *, interlaced: bool) -> list[tuple[int, int]]:
    """Return the columns and rows of every pass that has any."""
    if not interlaced:
        return [(width, height)]
    sizes = [(-(-(width - left) // right), -(-(height - top) // down)) for top, left, down, right in ADAM7]
    return [(columns, rows) for columns, rows in sizes if columns > 0 and rows > 0]


@st.composite
def files(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A PNG of any kind in chunks of any length, and the same with its notes between them."""
    colour = draw(st.sampled_from(sorted(SAMPLES)))
    depth = draw(st.sampled_from(DEPTHS[colour]))
    width, height = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    interlaced = draw(st.booleans())
    noise = np.random.default_rng(draw(st.integers(0, 99)))
    step = draw(st.sampled_from([1, 256]))  # a picture that doesn't fold, or of one value
    pixels = b"".join(
        bytes([draw(st.integers(0, 4))])
        + noise.integers(0, 256 // step, -(-columns * depth * SAMPLES[colour] // 8), np.uint8).tobytes()
        for columns, rows in passes(width, height, interlaced=interlaced)
        for _ in range(rows)
    )
    stream = zlib.compressobj(draw(st.integers(0, 9)), zlib.DEFLATED, draw(st.integers(9, 15)))
    folded = stream.compress(pixels) + stream.flush()
    cuts = sorted(draw(st.lists(st.integers(0, len(folded)), max_size=4)))
    parts = [folded[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(folded)], strict=True)]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    body = b"".join(chunk(b"IDAT", part) for part in parts)
    head, end = PNG_SIGNATURE + header + PALETTE * (colour == 3), chunk(b"IEND", b"")
    return head + body + end, head + NOTES + body + chunk(b"tEXt", b"k\0v") + NOTES + end


@settings(max_examples=200)
@given(files())
def test_a_png_of_any_kind_has_the_pixels_that_opencv_reads(both: tuple[bytes, bytes]) -> None:
    data, with_notes = both
    expected = opencv(data)
    assert expected is not None
    for checked in (check_picture(data), check_picture(with_notes)):
        np.testing.assert_array_equal(opencv(checked), expected)
        assert not any(note in bytes(checked) for note in (b"zTXt", b"iTXt", b"iCCP"))


@pytest.mark.parametrize("side", [100, 3000])
@pytest.mark.parametrize("smooth", [False, True])
def test_pixels_are_handed_on_stored_unless_they_fold_to_little(side: int, smooth: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 1 if smooth else 256, (side, side, 3), np.uint8)
    data = images.encode_png(noise)
    checked = check_picture(data)
    assert (len(checked) > noise.size) is not smooth
    np.testing.assert_array_equal(images.decode(data), noise)


def test_a_noisy_picture_below_a_long_blank_sky_is_read() -> None:
    """Its beginning folds a thousandfold: what was kept of the pixels is given up, and libpng unfolds them again."""
    picture = np.zeros((9000, 4000), np.uint8)
    picture[5000:] = np.random.default_rng(0).integers(0, 256, (4000, 4000), np.uint8)
    data = images.encode_png(picture)
    assert len(check_picture(data)) <= len(data)
    np.testing.assert_array_equal(images.decode(data), picture)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (3000, 1), (2100, 2300)])
def test_noise_that_deflate_lengthens_is_read(shape: tuple[int, int], level: int, interlaced: bool) -> None:
    picture = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    parts = [picture[top::down, left::right] for top, left, down, right in ADAM7] if interlaced else [picture]
    rows = [b"\0" + row.tobytes() for part in parts for row in part if row.size]
    folded = zlib.compressobj(level, strategy=zlib.Z_FIXED)
    pixels = b"".join(folded.compress(row) for row in rows) + folded.flush()
    data = png(shape[1], shape[0], interlaced=interlaced, folded=pixels)
    np.testing.assert_array_equal(images.decode(data), picture)


@pytest.mark.parametrize("size", [18_100_000, 4_500_000, 50_000])
def test_a_png_of_many_zeros_behind_its_pixels_is_refused_before_it_is_decoded(size: int) -> None:
    with pytest.raises(UndecodableImageError, match="holds more than its pixels"):
        check_picture(png(4000, 4000, folded=folded_zeros(size)))


def test_48_million_blank_grey_pixels_are_read_and_as_many_in_colour_refused() -> None:
    """No camera sends either; the second takes more than a second to decode, and 150 KB to send."""
    grey, coloured = (
        png(8000, 6000, colour=colour, folded=zlib.compress(bytes((1 + 8000 * samples) * 6000)))
        for colour, samples in ((0, 1), (2, 3))
    )
    assert images.decode(grey).shape == (6000, 8000)
    with pytest.raises(UndecodableImageError, match="all but equal"):
        check_picture(coloured)


def test_a_png_with_a_little_behind_its_pixels_is_read_as_opencv_reads_it() -> None:
    folded = zlib.compress(b"\0" + bytes(50) + bytes(1000)) + b"and more"
    assert images.decode(png(50, 1, folded=folded)).shape == (1, 50)


@pytest.mark.parametrize("at", [-13, -17, 2_000_000], ids=["chunk's checksum", "stream's checksum", "pixels"])
def test_a_png_with_another_bit_in_its_pixels_is_refused(at: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2200, 2201), np.uint8)
    whole = png(2201, 2200, pixels=b"".join(b"\0" + row.tobytes() for row in pixels))
    np.testing.assert_array_equal(images.decode(whole), pixels)
    damaged = bytearray(whole)
    damaged[at] ^= 1
    if at == -17:  # as an encoder would write it that had the bit wrong from the beginning
        damaged[-16:-12] = zlib.crc32(damaged[37:-16]).to_bytes(4, "big")
    with pytest.raises(UndecodableImageError, match="damaged"):
        check_picture(bytes(damaged))


@pytest.mark.parametrize(
    ("folded", "said"),
    [
        (zlib.compress(bytes(50 * 51 - 1)), "less than its pixels"),
        (zlib.compress(bytes(50 * 51))[:-4], "cut off"),
        (zlib.compress(bytes(50 * 51))[:-9], "cut off"),
        (b"no zlib stream, although it is as long as one", "damaged"),
    ],
    ids=["a byte short", "no checksum", "cut", "rubbish"],
)
def test_pixels_that_dont_fill_the_picture_are_refused_as_opencv_refuses_them(folded: bytes, said: str) -> None:
    data = png(50, 50, folded=folded)
    assert opencv(data) is None
    with pytest.raises(UndecodableImageError, match=said):
        check_picture(data)


def test_pixels_in_several_places_are_refused_as_opencv_refuses_them() -> None:
    folded = zlib.compress(bytes(50 * 51))
    apart = chunk(b"IDAT", folded[:9]) + chunk(b"tEXt", b"k\0v") + chunk(b"IDAT", folded[9:])
    data = png(50, 50, folded=folded).replace(chunk(b"IDAT", folded), apart)
    assert opencv(data) is None
    with pytest.raises(UndecodableImageError, match="several places"):
        check_picture(data)
