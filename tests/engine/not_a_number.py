"""A small network whose patch vectors are no numbers where a picture is black, as a device with a fault may give."""

from typing import Any

import mindspore
from mindspore import nn, ops


class NotANumber(nn.Cell):  # type: ignore[misc]
    """uint8 [n, 64, 64, 3] -> float32 [n, 64, 3]: each cell's mean colour, divided by itself and multiplied again."""

    def construct(self, images: Any) -> Any:
        cells = ops.reshape(ops.cast(images, mindspore.float32), (images.shape[0], 8, 8, 8, 8, 3))
        colours = ops.reshape(ops.reduce_mean(cells, (2, 4)), (images.shape[0], 64, 3))
        return colours * (colours / colours)
