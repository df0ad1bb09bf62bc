"""Fixtures of the engine's tests; a network is compiled once and shared."""

from collections.abc import Callable
from functools import cache

import pytest

from patchcore_engine.runtime import prepare_process

prepare_process()

from patchcore_engine.backbones.extractor import EmbeddingMode  # noqa: E402  (see prepare_process)
from patchcore_engine.backbones.mindspore_extractor import MindSporeExtractor  # noqa: E402  (see prepare_process)
from patchcore_engine.backbones.registry import backbone_spec  # noqa: E402
from patchcore_engine.backbones.weights import load_weights  # noqa: E402
from patchcore_engine.images import Geometry  # noqa: E402

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
