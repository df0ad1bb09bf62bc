import cv2
import numpy as np
import pytest

from daemon.heatmaps import encode_grey_png


@pytest.mark.parametrize("shape", [(224, 224), (1, 1), (3, 500)])
def test_a_heat_map_comes_out_of_its_png_as_it_went_in(shape: tuple[int, int]) -> None:
    for levels in (np.zeros(shape, np.uint8), np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)):
        encoded = np.frombuffer(encode_grey_png(levels), dtype=np.uint8)
        decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED))
        assert decoded.dtype == np.uint8
        assert np.array_equal(decoded, levels)


def test_a_smooth_heat_map_is_smaller_than_opencv_makes_it() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    levels = cv2.resize(cv2.GaussianBlur(noise, (0, 0), 1), (224, 224), interpolation=cv2.INTER_CUBIC)
    opencv = cv2.imencode(".png", levels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
    assert len(encode_grey_png(levels)) < len(opencv)
