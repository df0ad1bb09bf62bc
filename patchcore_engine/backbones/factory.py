"""One way to open any feature extractor."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from patchcore_engine.backbones.extractor import EmbeddingMode, Engine, FeatureExtractor, PrecisionHint, Search
from patchcore_engine.backbones.registry import backbone_spec
from patchcore_engine.backbones.sleeping import NAME as SLEEPING
from patchcore_engine.backbones.sleeping import SleepingExtractor
from patchcore_engine.backbones.weights import load_weights
from patchcore_engine.errors import DeviceError, WeightsFormatError
from patchcore_engine.images import Geometry
from patchcore_engine.runtime import Device, Precision

if TYPE_CHECKING:
    from patchcore_engine.backbones.mindspore_extractor import NetworkExtractor

SLEEPING_IMAGE_SIZE: Final = 64


def open_extractor(
    *,
    backbone: str,
    weights: str | Path | None = None,
    geometry: Geometry | None = None,
    embedding: EmbeddingMode = "paper",
    device: Device = "CPU",
    device_id: int = 0,
    precision: Precision = "float32",
    batch_sizes: Sequence[int] = (1, 2, 4, 8),
    weights_dir: Path | None = None,
    backbone_file: Path | None = None,
    sleep_ms: float = 0.0,
    engine: Engine = "mindspore",
    precision_hint: PrecisionHint = "auto",
    cache_dir: Path | None = None,
    search: Search = "faiss",
) -> FeatureExtractor:
    """Open the extractor that the settings name; heavy libraries are loaded here, not at import.

    `geometry`: None takes the backbone's own.  `weights`: see `load_weights`.
    `backbone_file`: an exported `.mindir`; then `weights` is not looked at, and `backbone`, `embedding` and `geometry`
    (where given) must be those it was exported with, else WeightsFormatError.
    `engine` "openvino" runs the same weights on the CPU (`OpenVinoExtractor`, which takes `precision_hint` and
    `cache_dir`); what it opens serves a bank only after a parity check.
    `search` "device" lets MindSpore's network search banks on its device, too (`DeviceSearchExtractor`); what it opens
    serves a bank only after a parity check.
    `backbone` "sleeping" opens the `SleepingExtractor`, which takes `sleep_ms` for each batch and no weights.
    Raises WeightsError and DeviceError.
    """
    if backbone == SLEEPING:
        image_size = geometry.image_size if geometry else SLEEPING_IMAGE_SIZE
        return SleepingExtractor(image_size=image_size, batch_sizes=batch_sizes, seconds_per_batch=sleep_ms / 1e3)
    if engine == "openvino":
        if search == "device":
            raise DeviceError(
                'search = "device" searches where MindSpore runs: with engine = "openvino" set search = "faiss".'
            )
        return _open_openvino(
            backbone,
            weights,
            geometry,
            embedding,
            device=device,
            precision=precision,
            batch_sizes=batch_sizes,
            weights_dir=weights_dir,
            backbone_file=backbone_file,
            precision_hint=precision_hint,
            cache_dir=cache_dir,
        )
    network = _open_mindspore(
        backbone,
        weights,
        geometry,
        embedding,
        device=device,
        device_id=device_id,
        precision=precision,
        batch_sizes=batch_sizes,
        weights_dir=weights_dir,
        backbone_file=backbone_file,
    )
    if search == "device":
        from patchcore_engine.backbones.device_search import DeviceSearchExtractor

        return DeviceSearchExtractor(network)
    return network


def _open_mindspore(
    backbone: str,
    weights: str | Path | None,
    geometry: Geometry | None,
    embedding: EmbeddingMode,
    *,
    device: Device,
    device_id: int,
    precision: Precision,
    batch_sizes: Sequence[int],
    weights_dir: Path | None,
    backbone_file: Path | None,
) -> "NetworkExtractor":
    if backbone_file is not None:
        return _open_exported(
            backbone_file, backbone, geometry, embedding, device=device, device_id=device_id, batch_sizes=batch_sizes
        )
    spec = backbone_spec(backbone)
    from patchcore_engine.backbones.mindspore_extractor import MindSporeExtractor

    return MindSporeExtractor(
        spec,
        load_weights(weights, spec, weights_dir=weights_dir),
        geometry=geometry,
        embedding=embedding,
        device=device,
        device_id=device_id,
        precision=precision,
        batch_sizes=batch_sizes,
    )


def _open_openvino(
    backbone: str,
    weights: str | Path | None,
    geometry: Geometry | None,
    embedding: EmbeddingMode,
    *,
    device: Device,
    precision: Precision,
    batch_sizes: Sequence[int],
    weights_dir: Path | None,
    backbone_file: Path | None,
    precision_hint: PrecisionHint,
    cache_dir: Path | None,
) -> FeatureExtractor:
    if device != "CPU":
        raise DeviceError(f'engine = "openvino" runs on the CPU: for device {device} set engine = "mindspore".')
    if precision != "float32":
        raise DeviceError(
            f'engine = "openvino" stands in for float32 networks, not {precision}: set engine = "mindspore", '
            "or fit the bank anew at float32."
        )
    if backbone_file is not None:
        raise DeviceError('engine = "openvino" runs from the weights: leave backbone_file out.')
    spec = backbone_spec(backbone)
    from patchcore_engine.backbones.openvino_extractor import OpenVinoExtractor

    return OpenVinoExtractor(
        spec,
        load_weights(weights, spec, weights_dir=weights_dir),
        geometry=geometry,
        embedding=embedding,
        precision_hint=precision_hint,
        batch_sizes=batch_sizes,
        cache_dir=cache_dir,
    )


def _open_exported(
    path: Path,
    backbone: str,
    geometry: Geometry | None,
    embedding: EmbeddingMode,
    *,
    device: Device,
    device_id: int,
    batch_sizes: Sequence[int],
) -> "NetworkExtractor":
    from patchcore_engine.backbones.mindspore_extractor import MindIRExtractor

    extractor = MindIRExtractor(path, device=device, device_id=device_id, batch_sizes=batch_sizes)
    identity = extractor.identity
    asked = (backbone, embedding, geometry or extractor.geometry)
    if (identity.backbone, identity.embedding, extractor.geometry) != asked:
        raise WeightsFormatError(
            f'{path} was exported from {identity.backbone}, embedding "{identity.embedding}", resize '
            f"{extractor.geometry.resize} and image size {identity.image_size}; the settings ask for another."
        )
    return extractor
