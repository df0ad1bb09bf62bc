"""The matrices of pooling and upsampling."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchcore_engine.backbones.extractor import EmbeddingMode
from patchcore_engine.embedding import bilinear_matrix, coarse_matrix, embed, nearest_matrix, pooling_matrix


def test_pooling_counts_the_zero_padding() -> None:
    pooled = pooling_matrix(4) @ np.ones((4, 4)) @ pooling_matrix(4).T
    np.testing.assert_allclose(pooled[0], [4 / 9, 6 / 9, 6 / 9, 4 / 9])
    np.testing.assert_allclose(pooled[1], [6 / 9, 1, 1, 6 / 9])


def test_bilinear_doubling_has_the_known_weights() -> None:
    expected = [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    np.testing.assert_allclose(bilinear_matrix(2, 4), expected)


def test_nearest_doubling_repeats() -> None:
    np.testing.assert_array_equal(nearest_matrix(2, 4), [[1, 0], [1, 0], [0, 1], [0, 1]])


@settings(max_examples=60, deadline=None)
@given(source=st.integers(1, 24), target=st.integers(1, 48))
def test_upsampling_keeps_a_constant_map_constant(source: int, target: int) -> None:
    for matrix in (bilinear_matrix(source, target), nearest_matrix(source, target)):
        np.testing.assert_allclose(matrix.sum(1), 1)
        assert matrix.min() >= 0


def test_the_coarse_grid_is_pooled_before_it_is_upsampled() -> None:
    expected = bilinear_matrix(3, 5) @ pooling_matrix(3)
    np.testing.assert_allclose(coarse_matrix("paper", 3, 5), expected, rtol=1e-6)


@pytest.mark.parametrize("mode", ["paper", "modelzoo"])
def test_patch_vectors_are_ordered_row_by_row_with_the_fine_channels_first(mode: EmbeddingMode) -> None:
    fine = np.zeros((2, 4, 4), np.float32)
    fine[1, 2, 0] = 9
    coarse = np.full((3, 2, 2), 5, np.float32)
    patches = embed((fine, coarse), mode)
    assert patches.shape == (16, 5)
    np.testing.assert_allclose(patches[2 * 4 + 0, :2], [0, 1], atol=1e-6)
    assert patches[:, 2:].min() > 0
