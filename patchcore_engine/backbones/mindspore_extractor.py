"""Feature extraction by MindSpore, on a CPU or an Ascend NPU."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.backbones.extractor import EmbeddingMode, ExtractorIdentity
from patchcore_engine.backbones.fixed_batches import BATCH_SIZES, FixedBatchExtractor, pad_batch
from patchcore_engine.backbones.registry import BackboneSpec
from patchcore_engine.backbones.sidecar import read_sidecar
from patchcore_engine.backbones.weights import Weights
from patchcore_engine.errors import WeightsFormatError
from patchcore_engine.images import Geometry
from patchcore_engine.runtime import Device, Precision, check_precision, open_device, prepare_process

prepare_process()

import mindspore  # noqa: E402  (the process must be prepared first)
from mindspore import Tensor, nn  # noqa: E402

from patchcore_engine.backbones.compiled import give_back  # noqa: E402
from patchcore_engine.backbones.network import PatchNetwork  # noqa: E402


class NetworkExtractor(FixedBatchExtractor):
    """Runs a MindSpore cell: uint8 [n, s, s, 3] -> float32 [n, patches, dimension]."""

    def __init__(
        self,
        network: Callable[[Any], Any],
        identity: ExtractorIdentity,
        *,
        grid: tuple[int, int],
        dimension: int,
        batch_sizes: Sequence[int],
    ) -> None:
        super().__init__(identity, grid=grid, dimension=dimension, batch_sizes=batch_sizes)
        self._network = network

    def embed_on_device(self, images: NDArray[np.uint8]) -> Any:
        """Return what `embed` does as a tensor that stays on the device, with the rows of the padding."""
        return self._network(Tensor(pad_batch(images, self._batch_sizes, self._identity.image_size)))

    def release(self) -> None:
        give_back(self._network)

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        patches: NDArray[np.float32] = self._network(Tensor(images)).asnumpy()
        return patches


class MindSporeExtractor(NetworkExtractor):
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
            PatchNetwork(
                spec,
                weights.tensors,
                image_size=image_size,
                embedding=embedding,
                precision=precision,
                portable=device != "CPU",
            ),
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


class MindIRExtractor(NetworkExtractor):
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
