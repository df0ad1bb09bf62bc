"""Rounding kernels to bfloat16 so that each keeps its sum.

Rounded one by one, the weights of a small kernel shift its answer to an even surface, the same way at every place, and
a whole dark background moves away from its bank. Where each error is carried to the next weight, the sum stays.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# Longer kernels average their errors out by themselves.
_LARGEST_KERNEL: Final = 160
_HALF: Final = 0x7FFF


def nearest(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round to the nearest bfloat16, ties to even; float32 of the same shape."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + _HALF + ((bits >> 16) & 1)) >> 16) << 16
    return rounded.astype(np.uint32).view(np.float32).reshape(values.shape)


def keep_sums(kernels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round kernels, float32 [n, weights], to bfloat16: the largest weights first, each error carried to the next."""
    order = np.argsort(-np.abs(kernels), axis=1, kind="stable")
    rounded = np.empty_like(kernels)
    rows, carried = np.arange(len(kernels)), np.zeros(len(kernels))
    for column in order.T:
        wanted = kernels[rows, column] + carried
        rounded[rows, column] = nearest(wanted.astype(np.float32))
        carried = wanted - rounded[rows, column]
    return rounded


def round_kernels(model: Any) -> None:
    """Round the small convolution kernels of an OpenVINO model that is to be compiled for bfloat16, in place."""
    from openvino import opset13 as ops

    for node in model.get_ordered_ops():
        # A grouped kernel is [groups, out / groups, in / groups, k, k], another [out, in, k, k].
        leading = {"Convolution": 1, "GroupConvolution": 2}.get(node.get_type_name())
        if leading is None:
            continue
        source = node.input_value(1).get_node()
        while source.get_type_name() == "Reshape":
            source, leading = source.input_value(0).get_node(), 1
        if source.get_type_name() != "Constant":
            continue
        kernels = np.array(source.get_data())
        flat = kernels.reshape(int(np.prod(kernels.shape[:leading])), -1)
        if flat.shape[1] <= _LARGEST_KERNEL:
            replacement = ops.constant(keep_sums(flat).reshape(kernels.shape))
            # Names count up within a process, and OpenVINO's cache goes by them too.
            replacement.set_friendly_name(source.get_friendly_name())
            for target in source.output(0).get_target_inputs():
                target.replace_source_output(replacement.output(0))
