import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchcore_engine import images
from patchcore_engine.errors import DataError, GeometryError, ImageTooLargeError, UndecodableImageError
from patchcore_engine.images import Geometry


def encoded(image: np.ndarray, suffix: str = ".png") -> bytes:
    ok, data = cv2.imencode(suffix, image)
    assert ok
    return data.tobytes()


def test_colours_come_out_as_rgb() -> None:
    blue_in_opencv_order = np.full((4, 5, 3), (255, 0, 0), dtype=np.uint8)
    assert images.decode(encoded(blue_in_opencv_order))[0, 0].tolist() == [0, 0, 255]


def test_mono_stays_two_dimensional() -> None:
    assert images.decode(encoded(np.zeros((4, 5), dtype=np.uint8))).shape == (4, 5)


def test_sixteen_bits_are_scaled_never_wrapped() -> None:
    ramp = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    assert images.decode(encoded(ramp)).tolist() == [[0, 1, 128, 255]]


def test_twelve_significant_bits_saturate_above_their_range() -> None:
    raw = np.array([[0, 4095, 5000]], dtype=np.uint16)
    assert images.to_uint8_rgb(raw, color="mono", bits=12).tolist() == [[0, 255, 255]]


def test_eight_significant_bits_of_sixteen_saturate_above_their_range() -> None:
    values = np.array([[0, 255, 256, 300, 65535]], dtype=np.uint16)
    expected = np.array([[0, 255, 255, 255, 255]], dtype=np.uint8)
    mono = images.to_uint8_rgb(values, color="mono", bits=8)
    assert mono.dtype == np.uint8
    np.testing.assert_array_equal(mono, expected)
    colour = np.stack([values, values // 2, np.zeros_like(values)], axis=2)
    turned = np.stack([np.zeros_like(expected), [[0, 127, 128, 150, 255]], expected], axis=2)
    np.testing.assert_array_equal(images.to_uint8_rgb(colour, color="bgr", bits=8), turned)


def test_bgr_pixels_are_turned_around() -> None:
    raw = np.array([[[1, 2, 3]]], dtype=np.uint8)
    assert images.to_uint8_rgb(raw, color="bgr", bits=8).tolist() == [[[3, 2, 1]]]


@given(st.binary(max_size=200))
def test_rubbish_is_undecodable_and_nothing_worse(data: bytes) -> None:
    with pytest.raises(UndecodableImageError):
        images.decode(data)


def png_bomb(side: int) -> bytes:
    """A mono PNG of `side` x `side` pixels, all black, a few kilobytes long."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    body = zlib.compress(bytes(1000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_a_picture_bomb_is_refused_by_its_size() -> None:
    with pytest.raises(ImageTooLargeError, match="64,000,000 pixels"):
        images.decode(png_bomb(20_000))


def test_a_file_that_is_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.png can't be read: No such file"):
        images.read(tmp_path / "nothing.png")


@pytest.mark.parametrize(("height", "width"), [(360, 360), (480, 640), (200, 150), (1000, 260)])
def test_the_rect_is_where_the_crop_lies_in_the_frame(height: int, width: int) -> None:
    geometry = Geometry(resize=256, image_size=224)
    prepared = geometry.prepare(np.zeros((height, width, 3), dtype=np.uint8))
    assert prepared.pixels.shape == (224, 224, 3)
    scale = 256 / min(height, width)
    assert prepared.rect.width * scale == pytest.approx(224)
    assert prepared.rect.x + prepared.rect.width / 2 == pytest.approx(width / 2)
    assert prepared.rect.y + prepared.rect.height / 2 == pytest.approx(height / 2)


def test_a_mark_is_found_where_the_rect_says() -> None:
    frame = np.zeros((600, 800), dtype=np.uint8)
    frame[280:320, 500:540] = 255
    prepared = Geometry(resize=256, image_size=224).prepare(frame)
    rows, columns = np.nonzero(prepared.pixels[:, :, 0] > 128)
    x = prepared.rect.x + (columns.mean() + 0.5) * prepared.rect.width / 224
    y = prepared.rect.y + (rows.mean() + 0.5) * prepared.rect.height / 224
    assert (x, y) == pytest.approx((520, 300), abs=2)


def test_masks_go_the_way_of_their_pictures() -> None:
    mask = np.zeros((600, 800), dtype=np.uint8)
    mask[280:320, 500:540] = 255
    geometry = Geometry(resize=256, image_size=224)
    pixels = geometry.prepare(mask).pixels[:, :, 0] > 128
    overlap = geometry.prepare_mask(mask)
    assert (pixels & overlap).sum() / (pixels | overlap).sum() > 0.85


@pytest.mark.parametrize(("resize", "image_size"), [(200, 224), (20, 10), (5000, 224)])
def test_a_geometry_that_cannot_be_is_refused(resize: int, image_size: int) -> None:
    with pytest.raises(GeometryError, match="don't fit"):
        Geometry(resize=resize, image_size=image_size)


@pytest.mark.parametrize("shape", [(1024, 1024), (2048, 2448), (512, 512, 3)])
def test_a_picture_of_a_multiple_of_the_size_is_the_average_of_its_areas(shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    step = min(shape[:2]) // 256
    width = shape[1] // step
    areas = picture.reshape(256, step, width, step, -1).mean(axis=(1, 3))[:, (width - 256) // 2 :][:, :256]
    prepared = Geometry(resize=256, image_size=256).prepare(picture).pixels
    assert np.abs(prepared - np.broadcast_to(areas, prepared.shape)).max() <= 1.5
