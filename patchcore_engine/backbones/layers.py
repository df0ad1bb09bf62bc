"""The MindSpore cells that the backbones share."""

from typing import Any, Literal

from mindspore import Tensor, nn, ops

from patchcore_engine.backbones.folding import FoldedConvolution


def convolution(folded: FoldedConvolution, *, same: bool = False) -> Any:
    """Make the cell of one folded convolution, NCHW.

    `same`: TensorFlow's SAME padding (the odd pixel goes to the right and below); else kernel // 2 on every side.
    """
    shape = folded.shape
    padding = {"pad_mode": "same"} if same else {"pad_mode": "pad", "padding": shape.kernel // 2}
    return nn.Conv2d(
        shape.in_channels,
        shape.out_channels,
        shape.kernel,
        shape.stride,
        group=shape.groups,
        has_bias=True,
        weight_init=Tensor(folded.kernel),
        bias_init=Tensor(folded.bias),
        **padding,
    )


class Pool(nn.Cell):  # type: ignore[misc]
    """Pooling with a border of zeros, `kernel` // 2 wide, NCHW: the average, or the maximum of values not below zero.

    After a ReLU zero padding is the same as padding with minus infinity.
    `portable`: padding is a step of its own, which any device runs and ONNX can say. On a CPU MindSpore's Pad takes
    longer than the convolution before it, while pooling over a depth of one takes the border as its own padding.
    """

    def __init__(self, kind: Literal["average", "maximum"], kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.portable = False
        border = kernel // 2
        self.pad = ops.Pad(((0, 0), (0, 0), (border, border), (border, border)))
        self.pool = (nn.AvgPool2d if kind == "average" else nn.MaxPool2d)(kernel, stride, pad_mode="valid")
        window, steps, borders = (1, kernel, kernel), (1, stride, stride), (0, 0, border, border, border, border)
        self.padded_pool = (
            ops.AvgPool3D(window, steps, "pad", borders, count_include_pad=True)
            if kind == "average"
            else ops.MaxPool3D(window, steps, "pad", borders)
        )

    def construct(self, x: Any) -> Any:
        if self.portable:
            return self.pool(self.pad(x))
        return ops.squeeze(self.padded_pool(ops.expand_dims(x, 2)), 2)


def pools(network: nn.Cell) -> list[Pool]:
    """Return every `Pool` in `network`."""
    return [cell for _, cell in network.cells_and_names() if isinstance(cell, Pool)]
