"""Residual networks to the end of layer3, in MindSpore."""

from collections.abc import Mapping
from typing import Any

from mindspore import nn, ops

from patchcore_engine.backbones.architecture import ResidualBlock, ResNet
from patchcore_engine.backbones.folding import FoldedConvolution
from patchcore_engine.backbones.layers import Pool, convolution


class ResNetFeatures(nn.Cell):  # type: ignore[misc]
    """Pictures float32 [n, 3, s, s], normalised -> outputs of layer2 and layer3, float32 NCHW."""

    def __init__(self, architecture: ResNet, folded: Mapping[str, FoldedConvolution]) -> None:
        super().__init__()
        self.stem = convolution(folded[architecture.stem.name])
        self.relu = ops.ReLU()
        self.pool = Pool("maximum", kernel=3, stride=2)
        self.layer1, self.layer2, self.layer3 = (
            nn.SequentialCell([_Block(block, folded) for block in layer]) for layer in architecture.layers
        )

    def construct(self, x: Any) -> Any:
        x = self.layer1(self.pool(self.relu(self.stem(x))))
        fine = self.layer2(x)
        return fine, self.layer3(fine)


class _Block(nn.Cell):  # type: ignore[misc]
    def __init__(self, block: ResidualBlock, folded: Mapping[str, FoldedConvolution]) -> None:
        super().__init__()
        self.relu = ops.ReLU()
        inner: list[Any] = []
        for shape in block.main[:-1]:
            inner += [convolution(folded[shape.name]), nn.ReLU()]
        self.main = nn.SequentialCell([*inner, convolution(folded[block.main[-1].name])])
        self.has_shortcut = block.shortcut is not None
        if block.shortcut is not None:
            self.shortcut = convolution(folded[block.shortcut.name])

    def construct(self, x: Any) -> Any:
        y = self.main(x)
        if self.has_shortcut:
            x = self.shortcut(x)
        return self.relu(y + x)
