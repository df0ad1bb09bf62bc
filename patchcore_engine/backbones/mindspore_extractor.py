"""Feature extraction by MindSpore, on a CPU or an Ascend NPU."""

import bisect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.backbones.extractor import EmbeddingMode, ExtractorIdentity
from patchcore_engine.backbones.registry import BackboneSpec
from patchcore_engine.backbones.sidecar import read_sidecar
from patchcore_engine.backbones.weights import Weights
from patchcore_engine.errors import GeometryError, WeightsFormatError
from patchcore_engine.images import Geometry
from patchcore_engine.runtime import Device, Precision, check_precision, open_device, prepare_process

prepare_process()

import mindspore  # noqa: E402  (the process must be prepared first)
from mindspore import Tensor, nn  # noqa: E402

from patchcore_engine.backbones.network import PatchNetwork  # noqa: E402

BATCH_SIZES = (1, 2, 4, 8)


class _NetworkExtractor:
    """A `FeatureExtractor` around a compiled network; fixed batch sizes, smaller batches padded up."""

    def __init__(
        self,
        network: Callable[[Any], Any],
        identity: ExtractorIdentity,
        *,
        grid: tuple[int, int],
        dimension: int,
        batch_sizes: Sequence[int],
    ) -> None:
        if not batch_sizes or min(batch_sizes) < 1:
            raise GeometryError(f"Batch sizes must be 1 or more, not {list(batch_sizes)}.")
        self._network = network
        self._identity = identity
        self._grid = grid
        self._dimension = dimension
        self._batch_sizes = tuple(sorted(set(batch_sizes)))

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
        side = self._identity.image_size
        for size in self._batch_sizes:
            self.embed(np.zeros((size, side, side, 3), np.uint8))

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        padded = pad_batch(images, self._batch_sizes, self._identity.image_size)
        patches: NDArray[np.float32] = self._network(Tensor(padded)).asnumpy()
        return patches[: len(images)]


class MindSporeExtractor(_NetworkExtractor):
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
        batch_sizes: Sequence[int] = BATCH_SIZES,
    ) -> None:
        check_precision(device, precision)
        open_device(device, device_id)
        self._geometry = geometry or spec.geometry
        image_size = self._geometry.image_size
        side, _ = spec.grids(image_size)
        super().__init__(
            PatchNetwork(spec, weights.tensors, image_size=image_size, embedding=embedding, precision=precision),
            ExtractorIdentity(
                backbone=spec.name,
                weights_digest=weights.digest,
                embedding=embedding,
                image_size=image_size,
                precision=precision,
            ),
            grid=(side, side),
            dimension=spec.dimension,
            batch_sizes=batch_sizes,
        )

    @property
    def geometry(self) -> Geometry:
        """What pictures must be prepared with."""
        return self._geometry

    @property
    def network(self) -> Any:
        """The MindSpore cell: uint8 [n, s, s, 3] -> float32 [n, patches, dimension]."""
        return self._network


class MindIRExtractor(_NetworkExtractor):
    """`FeatureExtractor` from an exported `.mindir` file, without the Python network or the weights.

    Raises what `read_sidecar` raises, WeightsFormatError where the file isn't a network, and DeviceError.
    """

    def __init__(
        self, path: Path, *, device: Device = "CPU", device_id: int = 0, batch_sizes: Sequence[int] = BATCH_SIZES
    ) -> None:
        sidecar = read_sidecar(path)
        check_precision(device, sidecar.identity.precision)
        open_device(device, device_id)
        try:
            network = nn.GraphCell(mindspore.load(str(path)))
        except (RuntimeError, ValueError, TypeError) as error:
            raise WeightsFormatError(f"{path} can't be loaded as a MindIR network.") from error
        super().__init__(
            network, sidecar.identity, grid=sidecar.grid, dimension=sidecar.dimension, batch_sizes=batch_sizes
        )
        self._geometry = Geometry(resize=sidecar.resize, image_size=sidecar.identity.image_size)

    @property
    def geometry(self) -> Geometry:
        """What pictures must be prepared with."""
        return self._geometry


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
