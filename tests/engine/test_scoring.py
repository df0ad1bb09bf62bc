import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from patchcore_engine.images import Rect
from patchcore_engine.scoring import (
    MAX_REGIONS,
    HeatScale,
    anomaly_maps,
    find_regions,
    map_distances,
    modelzoo_score,
    overlay,
    reweighted_score,
)


def test_the_reweighted_score_is_equation_7_of_the_paper() -> None:
    neighbours = np.array([2.0, 2.3, 3.1], dtype=np.float32)
    expected = (1 - np.exp(2.0) / np.exp(neighbours.astype(np.float64)).sum()) * 2.0
    assert reweighted_score(2.0, neighbours) == pytest.approx(expected, rel=1e-12)


def test_distances_that_overflow_an_exponential_still_give_a_finite_score() -> None:
    score = reweighted_score(5000.0, np.array([5000.0, 5000.0, 4000.0]))
    assert score == pytest.approx(2500.0)


def test_a_lone_bank_vector_gives_weight_zero_and_not_nan() -> None:
    assert reweighted_score(3.0, np.array([3.0])) == 0.0


def test_the_modelzoo_score_is_its_formula_on_squared_distances() -> None:
    squared = np.array([4.1, 5.2, 6.3], dtype=np.float32)
    exponentials = np.exp(squared.astype(np.float64))
    expected = (1 - exponentials.max() / exponentials.sum()) * float(squared[0])
    assert modelzoo_score(squared) == pytest.approx(expected, rel=1e-12)


def test_modelzoo_maps_show_squared_distances() -> None:
    distances = np.array([[1.0, 3.0]], dtype=np.float32)
    assert map_distances(distances, "modelzoo").tolist() == [[1.0, 9.0]]
    assert map_distances(distances, "paper") is distances


@pytest.mark.parametrize(("grid", "size"), [((28, 28), 224), ((48, 48), 384), ((10, 14), 112)])
def test_maps_equal_bilinear_upsampling_and_a_gaussian_of_scipy(grid: tuple[int, int], size: int) -> None:
    patches = np.random.default_rng(3).random((2, *grid), dtype=np.float32)
    maps = anomaly_maps(patches, size)
    for patch, result in zip(patches, maps, strict=True):
        expected = gaussian_filter(cv2.resize(patch, (size, size)), sigma=4 * size / 224)
        np.testing.assert_allclose(result, expected, atol=2e-6)


def test_a_picture_with_nan_leaves_its_neighbours_in_the_batch_alone() -> None:
    patches = np.ones((2, 4, 4), dtype=np.float32)
    patches[0, 1, 1] = np.nan
    maps = anomaly_maps(patches, 32)
    assert np.isnan(maps[0]).any()
    np.testing.assert_allclose(maps[1], 1, rtol=1e-6)


def test_regions_lie_in_pixels_of_the_original_frame() -> None:
    anomaly_map = np.zeros((64, 64), dtype=np.float32)
    anomaly_map[10:20, 30:34] = 5
    anomaly_map[15, 31] = 9
    anomaly_map[40:42, 8:10] = 7
    rect = Rect(100.0, 50.0, 128.0, 128.0)
    worst, second = find_regions(anomaly_map, 4.0, rect, 300, 400)
    assert (worst.x, worst.y, worst.width, worst.height) == (160, 70, 8, 20)
    assert worst.peak == 9
    assert worst.area == 40 * 4
    assert worst.centroid == pytest.approx((100 + 2 * 32, 50 + 2 * 15))
    assert second.peak == 7


def test_regions_never_leave_the_frame() -> None:
    anomaly_map = np.ones((64, 64), dtype=np.float32)
    (region,) = find_regions(anomaly_map, 0.5, Rect(-3.0, -2.0, 70.0, 70.0), 60, 61)
    assert (region.x, region.y, region.width, region.height) == (0, 0, 61, 60)


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([(256, 224), (439, 384), (384, 384)]), st.data())
def test_a_region_of_any_pixel_of_the_map_lies_within_the_frame(
    width: int, height: int, geometry: tuple[int, int], data: st.DataObject
) -> None:
    resize, size = geometry
    crop = min(width, height) * size / resize
    rect = Rect((width - crop) / 2, (height - crop) / 2, crop, crop)
    edges = st.one_of(st.sampled_from([0, size - 1]), st.integers(0, size - 1))
    anomaly_map = np.zeros((size, size), dtype=np.float32)
    anomaly_map[data.draw(edges), data.draw(edges)] = 1
    (region,) = find_regions(anomaly_map, 0.5, rect, height, width)
    assert 0 <= region.x < region.x + region.width <= width
    assert 0 <= region.y < region.y + region.height <= height


def test_a_map_that_just_reaches_the_threshold_is_a_region() -> None:
    anomaly_map = np.zeros((8, 8), dtype=np.float32)
    anomaly_map[2, 3] = 0.5
    (region,) = find_regions(anomaly_map, 0.5, Rect(0, 0, 8, 8), 8, 8)
    assert (region.x, region.y, region.peak) == (3, 2, 0.5)


def test_a_region_smaller_than_a_pixel_of_the_frame_is_one_pixel() -> None:
    anomaly_map = np.zeros((64, 64), dtype=np.float32)
    anomaly_map[8, 8] = 1
    (region,) = find_regions(anomaly_map, 0.5, Rect(0, 0, 8, 8), 8, 8)
    assert (region.width, region.height) == (1, 1)


def test_a_map_wider_than_high_keeps_its_two_scales_apart() -> None:
    anomaly_map = np.zeros((16, 64), dtype=np.float32)
    anomaly_map[4:8, 16:32] = 1
    (region,) = find_regions(anomaly_map, 0.5, Rect(0, 0, 64, 64), 64, 64)
    assert (region.x, region.y, region.width, region.height) == (16, 16, 16, 16)


def test_a_map_below_the_threshold_has_no_regions() -> None:
    assert find_regions(np.zeros((8, 8), dtype=np.float32), 0.1, Rect(0, 0, 8, 8), 8, 8) == ()


def test_a_checkerboard_names_only_the_worst_regions() -> None:
    anomaly_map = np.zeros((64, 64), dtype=np.float32)
    anomaly_map[::2, ::2] = np.arange(1024, dtype=np.float32).reshape(32, 32) + 1
    regions = find_regions(anomaly_map, 0.5, Rect(0, 0, 64, 64), 64, 64)
    assert len(regions) == MAX_REGIONS
    assert regions[0].peak == 1024


def test_heat_levels_use_the_banks_scale_not_the_pictures() -> None:
    scale = HeatScale(median=2.0, threshold=4.0)
    levels = scale.levels(np.array([[0.0, 2.0, 3.0, 4.0, 100.0]], dtype=np.float32))
    assert levels.tolist() == [[0, 0, 64, 128, 255]]
    assert levels.dtype == np.uint8


def test_an_overlay_leaves_cold_pixels_and_mixes_hot_ones_with_their_colour() -> None:
    pixels = np.full((4, 4, 3), 90, dtype=np.uint8)
    levels = np.zeros((4, 4), dtype=np.uint8)
    levels[0, :3] = 64, 128, 255
    picture = overlay(pixels, levels)
    turbo = cv2.applyColorMap(levels, cv2.COLORMAP_TURBO)[0, :3, ::-1]
    shares = 0.65 * np.array([0.5, 1, 1])[:, None]
    assert picture.dtype == np.uint8
    assert (picture[1:] == 90).all()
    np.testing.assert_allclose(picture[0, :3], 90 * (1 - shares) + turbo * shares, atol=1)


def test_an_overlay_brings_levels_to_the_size_of_the_picture() -> None:
    pixels = np.full((8, 16, 3), 90, dtype=np.uint8)
    levels = np.zeros((2, 4), dtype=np.uint8)
    levels[1, 3] = 255
    picture = overlay(pixels, levels)
    assert picture.shape == pixels.shape
    assert (picture[:2, :4] == 90).all()
    assert (picture[7, 15] != 90).any()
    # Bilinear: from the hot corner to the cold the colour fades.
    assert len({tuple(pixel) for pixel in picture[7]}) > 3
