"""Pictures that would unfold in memory are refused by what their files say; honest ones of every format are read."""

import struct

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchcore_engine import MAX_IMAGE_PIXELS, images
from patchcore_engine.errors import DataError, GeometryError, ImageTooLargeError, UndecodableImageError
from patchcore_engine.images import Geometry
from patchcore_engine.picture_header import check_picture
from tests.engine.picture_bombs import BOMBS, jpeg, measure_in_a_process_of_its_own, tiff

GROWTH_LIMIT_MB = 20.0
# OpenCV reads each of these from a file.
HONEST = {
    "png": (".png", []),
    "png, 16 bit": (".png", []),
    "jpeg": (".jpg", []),
    "jpeg, progressive": (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
    "jpeg with restarts": (".jpg", [cv2.IMWRITE_JPEG_RST_INTERVAL, 4]),
    "bmp": (".bmp", []),
    "tiff": (".tif", [cv2.IMWRITE_TIFF_COMPRESSION, 1]),
    "tiff, lzw": (".tif", [cv2.IMWRITE_TIFF_COMPRESSION, 5]),
    "tiff, deflate": (".tif", [cv2.IMWRITE_TIFF_COMPRESSION, 8]),
    "webp": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 80]),
    "webp, lossless": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]),
}


def honest(kind: str, shape: tuple[int, ...] = (48, 64, 3)) -> bytes:
    suffix, options = HONEST[kind]
    dtype = np.uint16 if "16" in kind else np.uint8
    picture = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)
    ok, data = cv2.imencode(suffix, cv2.GaussianBlur(picture, (0, 0), 3), options)
    assert ok
    return data.tobytes()


@pytest.mark.parametrize("kind", HONEST)
@pytest.mark.parametrize("shape", [(48, 64, 3), (47, 61), (1, 1), (1, 300)])
def test_honest_pictures_of_every_format_are_read(kind: str, shape: tuple[int, ...]) -> None:
    data = honest(kind, shape)
    assert images.decode(data).shape[:2] == shape[:2]
    assert (check_picture(data) is data) is not kind.startswith("png")


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".jpg", ".webp"])
def test_a_blank_picture_folds_to_little_and_is_read(suffix: str) -> None:
    ok, data = cv2.imencode(suffix, np.zeros((1500, 2000), np.uint8))
    assert ok
    assert not images.decode(data.tobytes()).any()


def test_a_blank_mask_of_one_bit_is_read() -> None:
    ok, data = cv2.imencode(".png", np.zeros((4000, 5000), np.uint8), [cv2.IMWRITE_PNG_BILEVEL, 1])
    assert ok
    assert images.decode(data.tobytes()).shape == (4000, 5000)


@pytest.mark.parametrize("name", BOMBS)
def test_a_picture_bomb_is_refused(name: str) -> None:
    with pytest.raises((UndecodableImageError, ImageTooLargeError)):
        images.decode(BOMBS[name]())


def test_no_picture_bomb_takes_memory() -> None:
    told = measure_in_a_process_of_its_own()
    grown = {line[:45].strip(): float(line[45:].split(" MB ")[0].split()[-1]) for line in told.splitlines()}
    assert set(grown) == set(BOMBS)
    assert max(grown.values()) < GROWTH_LIMIT_MB, told


@pytest.mark.parametrize("kind", HONEST)
@given(st.data())
def test_a_picture_that_is_cut_off_is_refused(kind: str, data: st.DataObject) -> None:
    whole = honest(kind)
    length = data.draw(st.integers(0, len(whole) - (2 if "bmp" in kind else 1)))
    with pytest.raises(UndecodableImageError):
        images.decode(whole[:length])


@pytest.mark.parametrize("kind", HONEST)
@settings(max_examples=40)
@given(st.data())
def test_a_damaged_picture_is_a_picture_or_refused(kind: str, data: st.DataObject) -> None:
    damaged = bytearray(honest(kind))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, min(len(damaged) - 1, 400)))] = data.draw(st.integers(0, 255))
    try:
        picture = images.decode(bytes(damaged))
    except DataError:
        return
    assert picture.dtype == np.uint8
    assert picture.size <= 3 * MAX_IMAGE_PIXELS


@given(
    st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"RIFF"]),
    st.binary(max_size=300),
)
def test_rubbish_behind_a_signature_is_refused(signature: bytes, rest: bytes) -> None:
    with pytest.raises(DataError):
        images.decode(signature + rest)


def test_a_jpeg_of_many_scans_is_read_up_to_the_limit() -> None:
    assert images.decode(jpeg(64, 64, progressive=True, scans=50)).shape == (64, 64)
    with pytest.raises(UndecodableImageError, match="too many scans"):
        images.decode(jpeg(64, 64, progressive=True, scans=70))


def test_a_tiff_whose_directory_lies_about_its_lengths_is_refused() -> None:
    whole = bytearray(tiff(8, 8, bytes(64)))
    at = whole.index(struct.pack("<HHI", 273, 4, 1)) + 4
    for count in (2, 2**31):
        whole[at : at + 4] = struct.pack("<I", count)
        with pytest.raises(UndecodableImageError):
            images.decode(bytes(whole))


@pytest.mark.parametrize("shape", [(1, 4000), (4000, 1, 3)])
def test_a_sliver_is_refused_before_it_is_resized(shape: tuple[int, ...]) -> None:
    with pytest.raises(GeometryError, match="too narrow"):
        Geometry(resize=256, image_size=224).prepare(np.zeros(shape, np.uint8))
