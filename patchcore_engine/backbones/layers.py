"""The MindSpore cells that the backbones share."""

from typing import Any

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


class MaxPool(nn.Cell):  # type: ignore[misc]
    """3x3 max pooling with stride 2 and padding 1, of values that are not negative.

    After a ReLU zero padding is the same as padding with minus infinity, and unlike a padded pool it exports to ONNX.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pad = ops.Pad(((0, 0), (0, 0), (1, 1), (1, 1)))
        self.pool = nn.MaxPool2d(3, 2, pad_mode="valid")

    def construct(self, x: Any) -> Any:
        return self.pool(self.pad(x))
