"""The backbones' shapes: every convolution up to the deepest output, by the name its published weights give it.

Plain values without MindSpore, so that weights can be listed, checked and converted without loading a framework.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution without bias, and the BatchNorm behind it.

    `name` and `norm`: prefixes of the tensors in a weights file.
    """

    name: str
    norm: str
    in_channels: int
    out_channels: int
    kernel: int
    stride: int = 1
    groups: int = 1

    @property
    def tensors(self) -> Mapping[str, tuple[int, ...]]:
        """Names and shapes of the tensors this layer needs."""
        per_channel = (self.out_channels,)
        return {
            f"{self.name}.weight": (self.out_channels, self.in_channels // self.groups, self.kernel, self.kernel),
            f"{self.norm}.weight": per_channel,
            f"{self.norm}.bias": per_channel,
            f"{self.norm}.running_mean": per_channel,
            f"{self.norm}.running_var": per_channel,
        }


@dataclass(frozen=True, slots=True)
class ResidualBlock:
    """`main` path with a ReLU between its convolutions, and `shortcut` (None: identity)."""

    main: tuple[Convolution, ...]
    shortcut: Convolution | None


@dataclass(frozen=True, slots=True)
class ResNet:
    """torchvision's residual networks to the end of layer3 (arXiv 1512.03385, 1605.07146).

    `depths`: blocks in layer1, layer2, layer3.  `width`: channels of layer1's inner convolutions (bottleneck only).
    """

    block: Literal["basic", "bottleneck"]
    depths: tuple[int, int, int]
    width: int = 64
    norm_epsilon: float = 1e-5

    @property
    def stem(self) -> Convolution:
        return Convolution("conv1", "bn1", 3, 64, 7, stride=2)

    @property
    def layers(self) -> tuple[tuple[ResidualBlock, ...], ...]:
        """The blocks of layer1, layer2 and layer3."""
        layers, channels = [], 64
        for index, depth in enumerate(self.depths):
            blocks = []
            for number in range(depth):
                stride = 2 if number == 0 and index > 0 else 1
                block = self._block(f"layer{index + 1}.{number}", index, channels, stride)
                channels = block.main[-1].out_channels
                blocks.append(block)
            layers.append(tuple(blocks))
        return tuple(layers)

    def _block(self, name: str, index: int, channels: int, stride: int) -> ResidualBlock:
        base = 64 * 2**index
        main: tuple[Convolution, ...]
        if self.block == "basic":
            out = base
            main = (
                Convolution(f"{name}.conv1", f"{name}.bn1", channels, base, 3, stride),
                Convolution(f"{name}.conv2", f"{name}.bn2", base, base, 3),
            )
        else:
            inner, out = self.width * 2**index, base * 4
            main = (
                Convolution(f"{name}.conv1", f"{name}.bn1", channels, inner, 1),
                Convolution(f"{name}.conv2", f"{name}.bn2", inner, inner, 3, stride),
                Convolution(f"{name}.conv3", f"{name}.bn3", inner, out, 1),
            )
        if stride == 1 and channels == out:
            return ResidualBlock(main, None)
        return ResidualBlock(
            main, Convolution(f"{name}.downsample.0", f"{name}.downsample.1", channels, out, 1, stride)
        )

    @property
    def channels(self) -> tuple[int, int]:
        """Channels of layer2's and layer3's outputs."""
        return self.layers[1][-1].main[-1].out_channels, self.layers[2][-1].main[-1].out_channels

    def leaves_aside(self, tensor: str) -> bool:
        """Tell whether `tensor` belongs to the part of the published network that isn't used here."""
        return tensor.startswith(("layer4.", "fc."))

    @property
    def convolutions(self) -> tuple[Convolution, ...]:
        """Every convolution, in the order of computation."""
        blocks = (block for layer in self.layers for block in layer)
        inner = (c for block in blocks for c in (*block.main, block.shortcut) if c is not None)
        return (self.stem, *inner)


@dataclass(frozen=True, slots=True)
class InvertedResidualBlock:
    """Expansion (None where the ratio is 1), depthwise convolution, linear projection; `residual`: input is added."""

    expand: Convolution | None
    depthwise: Convolution
    project: Convolution
    residual: bool


_LITE0_BLOCKS: Final = 16


@dataclass(frozen=True, slots=True)
class EfficientNetLite:
    """EfficientNet-Lite: no squeeze-and-excitation, ReLU6 throughout, TensorFlow's SAME padding.

    `outputs`: the two blocks whose outputs are the features, counted from 0.
    """

    outputs: tuple[int, int]
    norm_epsilon: float = 1e-3

    @property
    def stem(self) -> Convolution:
        return Convolution("_conv_stem", "_bn0", 3, 32, 3, stride=2)

    @property
    def blocks(self) -> tuple[InvertedResidualBlock, ...]:
        """The blocks up to and including the deeper output (efficientnet_lite0's table)."""
        # repeats, kernel, stride, expansion ratio, output channels
        stages = (
            (1, 3, 1, 1, 16),
            (2, 3, 2, 6, 24),
            (2, 5, 2, 6, 40),
            (3, 3, 2, 6, 80),
            (3, 5, 1, 6, 112),
            (4, 5, 2, 6, 192),
            (1, 3, 1, 6, 320),
        )
        blocks: list[InvertedResidualBlock] = []
        channels = self.stem.out_channels
        for repeats, kernel, first_stride, ratio, out in stages:
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                blocks.append(_inverted_residual(f"_blocks.{len(blocks)}", channels, out, kernel, stride, ratio))
                channels = out
        return tuple(blocks[: self.outputs[1] + 1])

    @property
    def channels(self) -> tuple[int, int]:
        """Channels of the two outputs."""
        fine, coarse = (self.blocks[index].project.out_channels for index in self.outputs)
        return fine, coarse

    def leaves_aside(self, tensor: str) -> bool:
        """Tell whether `tensor` belongs to the part of the published network that isn't used here."""
        deeper = tuple(f"_blocks.{index}." for index in range(self.outputs[1] + 1, _LITE0_BLOCKS))
        return tensor.startswith((*deeper, "_conv_head.", "_bn1.", "_fc."))

    @property
    def convolutions(self) -> tuple[Convolution, ...]:
        """Every convolution, in the order of computation."""
        inner = (c for b in self.blocks for c in (b.expand, b.depthwise, b.project) if c is not None)
        return (self.stem, *inner)


Architecture = ResNet | EfficientNetLite


def _inverted_residual(
    name: str, channels: int, out: int, kernel: int, stride: int, ratio: int
) -> InvertedResidualBlock:
    inner = channels * ratio
    expand = Convolution(f"{name}._expand_conv", f"{name}._bn0", channels, inner, 1) if ratio != 1 else None
    return InvertedResidualBlock(
        expand,
        Convolution(f"{name}._depthwise_conv", f"{name}._bn1", inner, inner, kernel, stride, groups=inner),
        Convolution(f"{name}._project_conv", f"{name}._bn2", inner, out, 1),
        residual=stride == 1 and channels == out,
    )


def tensor_shapes(convolutions: Iterable[Convolution]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of every tensor that `convolutions` need."""
    return {name: shape for convolution in convolutions for name, shape in convolution.tensors.items()}
