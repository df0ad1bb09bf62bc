"""The whole graph: pictures in, patch vectors out."""

from collections.abc import Mapping
from typing import Any

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops
from numpy.typing import NDArray

from patchcore_engine.backbones.architecture import ResNet
from patchcore_engine.backbones.efficientnet_lite import EfficientNetLiteFeatures
from patchcore_engine.backbones.extractor import EmbeddingMode
from patchcore_engine.backbones.folding import fold, fold_scale
from patchcore_engine.backbones.registry import BackboneSpec
from patchcore_engine.backbones.resnet import ResNetFeatures
from patchcore_engine.embedding import NEIGHBOURHOOD, coarse_matrix
from patchcore_engine.runtime import Precision


class PatchNetwork(nn.Cell):  # type: ignore[misc]
    """Pictures uint8 [n, s, s, 3] RGB -> patch vectors float32 [n, patches, dimension].

    Normalisation, backbone, pooling, upsampling and concatenation are in the graph, so that bytes go to the device and
    the patch matrix comes back.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        tensors: Mapping[str, NDArray[np.float32]],
        *,
        image_size: int,
        embedding: EmbeddingMode,
        precision: Precision,
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
        self.set_train(False)

    def construct(self, images: Any) -> Any:
        x = ops.transpose(ops.cast(images, mindspore.float32) - self.mean, (0, 3, 1, 2))
        fine, coarse = self.features(x)
        return self.embedding(ops.cast(fine, mindspore.float32), ops.cast(coarse, mindspore.float32))


class _Embedding(nn.Cell):  # type: ignore[misc]
    def __init__(self, mode: EmbeddingMode, fine_side: int, coarse_side: int) -> None:
        super().__init__()
        border = NEIGHBOURHOOD // 2
        self.pad = ops.Pad(((0, 0), (0, 0), (border, border), (border, border)))
        self.pool = nn.AvgPool2d(NEIGHBOURHOOD, 1, pad_mode="valid")
        down = coarse_matrix(mode, coarse_side, fine_side)
        self.down = Tensor(down)
        self.across = Tensor(np.ascontiguousarray(down.T))

    def construct(self, fine: Any, coarse: Any) -> Any:
        fine = self.pool(self.pad(fine))
        coarse = ops.matmul(ops.matmul(self.down, coarse), self.across)
        maps = ops.concat((fine, coarse), 1)
        n, channels, height, width = maps.shape
        return ops.transpose(ops.reshape(maps, (n, channels, height * width)), (0, 2, 1))
