"""Fixtures of the engine's tests; a network is compiled once and shared."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from patchcore_engine.runtime import prepare_process

prepare_process()

from patchcore_engine.backbones.device_search import DeviceSearchExtractor  # noqa: E402  (see prepare_process)
from patchcore_engine.backbones.extractor import EmbeddingMode  # noqa: E402  (see prepare_process)
from patchcore_engine.backbones.mindspore_extractor import MindSporeExtractor  # noqa: E402  (see prepare_process)
from patchcore_engine.backbones.registry import backbone_spec  # noqa: E402
from patchcore_engine.backbones.weights import load_weights  # noqa: E402
from patchcore_engine.bank import MemoryBank  # noqa: E402
from patchcore_engine.fit import fit  # noqa: E402
from patchcore_engine.images import Geometry  # noqa: E402
from tests.engine import parts  # noqa: E402

MakeExtractor = Callable[..., MindSporeExtractor]


@pytest.fixture(scope="session")
def make_extractor() -> MakeExtractor:
    """Open an extractor by backbone, weights and image size; the same one each time it is asked for."""

    @cache
    def make(
        backbone: str = "resnet18",
        weights: str | None = "random:7",
        image_size: int = 64,
        embedding: EmbeddingMode = "paper",
        batch_sizes: tuple[int, ...] = (1, 2, 4),
    ) -> MindSporeExtractor:
        spec = backbone_spec(backbone)
        return MindSporeExtractor(
            spec,
            load_weights(weights, spec),
            geometry=Geometry(resize=image_size, image_size=image_size),
            embedding=embedding,
            batch_sizes=batch_sizes,
        )

    return make


@pytest.fixture(scope="session")
def resnet_parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Pictures of the good parts that `resnet_bank` was fitted to."""
    return parts.write_good_parts(tmp_path_factory.mktemp("resnet"), 12)


@pytest.fixture(scope="session")
def resnet_bank(resnet_parts: list[Path], make_extractor: MakeExtractor) -> MemoryBank:
    """A bank of 76 vectors by the extractor that `make_extractor` opens first. Not to be changed."""
    return fit(resnet_parts, make_extractor(), parts.settings()).bank


@pytest.fixture(scope="session")
def second_bank(make_extractor: MakeExtractor, tmp_path_factory: pytest.TempPathFactory) -> MemoryBank:
    """Another, of other parts and 537 vectors."""
    pictures = parts.write_good_parts(tmp_path_factory.mktemp("second"), 12, seed=3)
    return fit(pictures, make_extractor(), parts.settings(recipe="second", coreset_ratio=0.7)).bank


@pytest.fixture(scope="session")
def on_device(make_extractor: MakeExtractor) -> DeviceSearchExtractor:
    """The extractor of `resnet_bank`, searching on the device."""
    return DeviceSearchExtractor(make_extractor())
