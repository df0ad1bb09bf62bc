"""EfficientNet-Lite to its deeper output, in MindSpore."""

from collections.abc import Mapping
from typing import Any

from mindspore import nn, ops

from patchcore_engine.backbones.architecture import EfficientNetLite, InvertedResidualBlock
from patchcore_engine.backbones.folding import FoldedConvolution
from patchcore_engine.backbones.layers import convolution


class EfficientNetLiteFeatures(nn.Cell):  # type: ignore[misc]
    """Pictures float32 [n, 3, s, s], normalised -> outputs of the two blocks, float32 NCHW."""

    def __init__(self, architecture: EfficientNetLite, folded: Mapping[str, FoldedConvolution]) -> None:
        super().__init__()
        self.stem = convolution(folded[architecture.stem.name], same=True)
        self.relu6 = ops.ReLU6()
        blocks = [_Block(block, folded) for block in architecture.blocks]
        split = architecture.outputs[0] + 1
        self.to_fine = nn.SequentialCell(blocks[:split])
        self.to_coarse = nn.SequentialCell(blocks[split:])

    def construct(self, x: Any) -> Any:
        fine = self.to_fine(self.relu6(self.stem(x)))
        return fine, self.to_coarse(fine)


class _Block(nn.Cell):  # type: ignore[misc]
    def __init__(self, block: InvertedResidualBlock, folded: Mapping[str, FoldedConvolution]) -> None:
        super().__init__()
        layers: list[Any] = []
        for shape in (block.expand, block.depthwise):
            if shape is not None:
                layers += [convolution(folded[shape.name], same=True), nn.ReLU6()]
        layers.append(convolution(folded[block.project.name], same=True))
        self.main = nn.SequentialCell(layers)
        self.residual = block.residual

    def construct(self, x: Any) -> Any:
        y = self.main(x)
        if self.residual:
            y = y + x
        return y
