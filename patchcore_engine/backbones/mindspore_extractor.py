"""Feature extraction by a MindSpore network, on a CPU or an Ascend NPU."""

import bisect
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.backbones.extractor import EmbeddingMode, ExtractorIdentity
from patchcore_engine.backbones.registry import BackboneSpec
from patchcore_engine.backbones.weights import Weights
from patchcore_engine.errors import GeometryError
from patchcore_engine.images import Geometry
from patchcore_engine.runtime import Device, Precision, check_precision, open_device, prepare_process

prepare_process()

from mindspore import Tensor  # noqa: E402  (the process must be prepared first)

from patchcore_engine.backbones.network import PatchNetwork  # noqa: E402


class MindSporeExtractor:
    """`FeatureExtractor` of a backbone built from its weights.

    Raises DeviceError where `device` is absent or can't compute in `precision`. May be made in one thread and used in
    another.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        weights: Weights,
        *,
        geometry: Geometry | None = None,
        embedding: EmbeddingMode = "paper",
        device: Device = "CPU",
        device_id: int = 0,
        precision: Precision = "float32",
        batch_sizes: Sequence[int] = (1, 2, 4, 8),
    ) -> None:
        check_precision(device, precision)
        open_device(device, device_id)
        self._image_size = (geometry or spec.geometry).image_size
        self._batch_sizes = tuple(sorted(set(batch_sizes)))
        side, _ = spec.grids(self._image_size)
        self._grid = (side, side)
        self._dimension = spec.dimension
        self._identity = ExtractorIdentity(
            backbone=spec.name,
            weights_digest=weights.digest,
            embedding=embedding,
            image_size=self._image_size,
            precision=precision,
        )
        self._network = PatchNetwork(
            spec, weights.tensors, image_size=self._image_size, embedding=embedding, precision=precision
        )

    @property
    def identity(self) -> ExtractorIdentity:
        return self._identity

    @property
    def grid(self) -> tuple[int, int]:
        return self._grid

    @property
    def dimension(self) -> int:
        return self._dimension

    @property
    def batch_sizes(self) -> Sequence[int]:
        return self._batch_sizes

    def warm_up(self) -> None:
        for size in self._batch_sizes:
            self.embed(np.zeros((size, self._image_size, self._image_size, 3), np.uint8))

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        n = len(images)
        padded = pad_batch(images, self._batch_sizes, self._image_size)
        patches: NDArray[np.float32] = self._network(Tensor(padded)).asnumpy()
        return patches[:n]


def pad_batch(images: NDArray[np.uint8], batch_sizes: Sequence[int], image_size: int) -> NDArray[np.uint8]:
    """Return `images` filled up with black ones to the next of `batch_sizes` (ascending).

    Raises GeometryError where the shape or the dtype isn't what the network was compiled for.
    """
    expected = (image_size, image_size, 3)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected:
        raise GeometryError(
            f"The backbone takes uint8 pictures [n, {image_size}, {image_size}, 3], not {images.dtype} "
            f"{list(images.shape)}."
        )
    n = len(images)
    if not 1 <= n <= batch_sizes[-1]:
        raise GeometryError(f"The backbone takes 1 to {batch_sizes[-1]} pictures at once, not {n}.")
    size = batch_sizes[bisect.bisect_left(batch_sizes, n)]
    if size == n:
        return np.ascontiguousarray(images)
    padded = np.zeros((size, *expected), np.uint8)
    padded[:n] = images
    return padded
