"""A bank on the device: exact distances, however the product rounds."""

import numpy as np
import pytest
from numpy.typing import NDArray

from patchcore_engine.backbones import bank_sizes
from patchcore_engine.backbones.bank_on_device import BankOnDevice, SearchGraphs, tensor
from patchcore_engine.backbones.device_search import BOUNDS
from patchcore_engine.bank import MemoryBank
from patchcore_engine.runtime import open_device
from tests.engine.conftest import MakeExtractor
from tests.engine.device_banks import PATCHES, prepared

Floats = NDArray[np.float32]


@pytest.fixture(autouse=True)
def opened() -> None:
    open_device("CPU")


def search_on_device(vectors: Floats, patches: Floats) -> tuple[Floats, NDArray[np.int32]]:
    """Distances and positions of each of `patches`, float32 [n, d]."""
    resident = BankOnDevice(
        vectors,
        np.arange(len(vectors), dtype=np.int32)[:, None],
        "paper",
        patches=len(patches),
        batch_sizes=(1,),
        graphs=SearchGraphs(),
    )
    distances, nearest, _ = resident.search(tensor(patches[None]))
    return distances.asnumpy()[0], nearest.asnumpy()[0]


def true_distances(vectors: Floats, patches: Floats) -> NDArray[np.float64]:
    return np.asarray(np.linalg.norm(vectors.astype(np.float64)[None] - patches[:, None], axis=2))


def test_a_bank_vector_itself_is_at_distance_zero() -> None:
    vectors = np.random.default_rng(0).normal(5, 1, (700, 96)).astype(np.float32)
    distances, nearest = search_on_device(vectors, vectors[::10])
    np.testing.assert_array_equal(distances, 0)
    np.testing.assert_array_equal(nearest, np.arange(0, 700, 10))


def test_small_distances_survive_far_from_the_origin() -> None:
    random = np.random.default_rng(1)
    vectors = (1000 + random.normal(0, 1, (600, 64))).astype(np.float32)
    patches = (vectors[:50] + random.normal(0, 1e-2, (50, 64))).astype(np.float32)
    distances, nearest = search_on_device(vectors, patches)
    np.testing.assert_array_equal(nearest, np.arange(50))
    np.testing.assert_allclose(distances, true_distances(vectors, patches).min(axis=1), rtol=1e-5)


def test_squared_lengths_beyond_half_precision_are_right() -> None:
    random = np.random.default_rng(2)
    vectors, patches = (random.normal(0, 300, (count, 128)).astype(np.float32) for count in (520, 40))
    assert (vectors.astype(np.float64) ** 2).sum(axis=1).min() > np.finfo(np.float16).max
    distances, _ = search_on_device(vectors, patches)
    np.testing.assert_allclose(distances, true_distances(vectors, patches).min(axis=1), rtol=1e-5)


def half_precision_choice(vectors: Floats, patches: Floats) -> NDArray[np.intp]:
    """What a device chooses that rounds the product's factors to half precision and sums in float32."""
    mean = vectors.mean(axis=0)
    y, x = ((array - mean).astype(np.float16).astype(np.float32) for array in (vectors, patches))
    ranks = np.square(vectors - mean).sum(axis=1) - 2 * x @ y.T
    return np.asarray(ranks.argmin(axis=1))


def test_factors_rounded_to_half_precision_would_stay_within_the_bound(
    resnet_bank: MemoryBank, make_extractor: MakeExtractor
) -> None:
    pixels = np.stack([image.pixels for image in prepared(4)])
    patches = make_extractor().embed(pixels).reshape(4 * PATCHES, -1)
    truth = true_distances(resnet_bank.index.vectors, patches)
    chosen = truth[np.arange(len(patches)), half_precision_choice(resnet_bank.index.vectors, patches)]
    excess = chosen**2 - truth.min(axis=1) ** 2
    mean = resnet_bank.index.vectors.mean(axis=0)
    lengths = np.linalg.norm(patches - mean, axis=1) * np.linalg.norm(resnet_bank.index.vectors - mean, axis=1).max()
    assert (excess <= 4 * 2.0**-10 * lengths).all()
    assert np.max((chosen - truth.min(axis=1)) / resnet_bank.manifest.thresholds.pixel.value) < BOUNDS.distance


def test_the_largest_bank_is_searched_picture_by_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_sizes, "PRODUCT_BYTES", 1)
    vectors = np.eye(4, dtype=np.float32)
    resident = BankOnDevice(
        vectors, np.zeros((4, 1), np.int32), "paper", patches=PATCHES, batch_sizes=(1, 2), graphs=SearchGraphs()
    )
    assert resident.pictures_at_once == 1
