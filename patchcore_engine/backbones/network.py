"""The whole graph: pictures in, patch vectors out."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops
from numpy.typing import NDArray

from patchcore_engine.backbones.architecture import ResNet
from patchcore_engine.backbones.efficientnet_lite import EfficientNetLiteFeatures
from patchcore_engine.backbones.extractor import EmbeddingMode
from patchcore_engine.backbones.folding import fold, fold_scale
from patchcore_engine.backbones.layers import Pool, pools
from patchcore_engine.backbones.registry import BackboneSpec
from patchcore_engine.backbones.resnet import ResNetFeatures
from patchcore_engine.embedding import NEIGHBOURHOOD, coarse_matrix
from patchcore_engine.runtime import Precision


class PatchNetwork(nn.Cell):  # type: ignore[misc]
    """Pictures uint8 [n, s, s, 3] RGB -> patch vectors float32 [n, patches, dimension].

    Normalisation, backbone, pooling, upsampling and concatenation are in the graph, so that bytes go to the device and
    the patch matrix comes back. `portable`: see `Pool`.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        tensors: Mapping[str, NDArray[np.float32]],
        *,
        image_size: int,
        embedding: EmbeddingMode,
        precision: Precision,
        portable: bool,
    ) -> None:
        super().__init__()
        architecture = spec.architecture
        folded = fold(architecture.convolutions, tensors, architecture.norm_epsilon)
        stem = architecture.stem.name
        folded[stem] = fold_scale(folded[stem], spec.std)
        features = (
            ResNetFeatures(architecture, folded)
            if isinstance(architecture, ResNet)
            else EfficientNetLiteFeatures(architecture, folded)
        )
        self.features = features.to_float(mindspore.float16) if precision == "float16" else features
        self.mean = Tensor(255.0 * np.asarray(spec.mean, np.float32))
        self.embedding = _Embedding(embedding, *spec.grids(image_size))
        for pool in pools(self):
            pool.portable = portable
        self.set_train(False)

    @contextmanager
    def portable(self) -> Iterator[None]:
        """Let graphs that are compiled within hold the portable form of every `Pool`."""
        before = [(pool, pool.portable) for pool in pools(self)]
        for pool, _ in before:
            pool.portable = True
        try:
            yield
        finally:
            for pool, was in before:
                pool.portable = was

    def construct(self, images: Any) -> Any:
        x = ops.transpose(ops.cast(images, mindspore.float32) - self.mean, (0, 3, 1, 2))
        fine, coarse = self.features(x)
        return self.embedding(ops.cast(fine, mindspore.float32), ops.cast(coarse, mindspore.float32))


class _Embedding(nn.Cell):  # type: ignore[misc]
    def __init__(self, mode: EmbeddingMode, fine_side: int, coarse_side: int) -> None:
        super().__init__()
        self.pool = Pool("average", NEIGHBOURHOOD)
        self.matrix = Tensor(coarse_matrix(mode, coarse_side, fine_side))

    def construct(self, fine: Any, coarse: Any) -> Any:
        n, _, height, width = fine.shape
        _, channels, rows, columns = coarse.shape
        # Vectors first: the coarse map is the smaller one to turn over, and its products run over whole vectors.
        coarse = ops.reshape(_vectors(coarse), (n, rows, columns * channels))
        down = ops.reshape(ops.matmul(self.matrix, coarse), (n, height, columns, channels))
        both_ways = ops.reshape(ops.matmul(self.matrix, down), (n, height * width, channels))
        return ops.concat((_vectors(self.pool(fine)), both_ways), 2)


def _vectors(maps: Any) -> Any:
    """Turn [n, channels, height, width] into [n, height * width, channels]."""
    n, channels, height, width = maps.shape
    return ops.transpose(ops.reshape(maps, (n, channels, height * width)), (0, 2, 1))
