"""Feature extraction by OpenVINO, for hosts without an NPU: the reference network, exported once."""

import os
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.backbones.bfloat16 import round_kernels
from patchcore_engine.backbones.extractor import EmbeddingMode, ExtractorIdentity, ParityBounds, PrecisionHint
from patchcore_engine.backbones.fixed_batches import BATCH_SIZES, FixedBatchExtractor
from patchcore_engine.backbones.registry import BackboneSpec
from patchcore_engine.backbones.sidecar import read_sidecar
from patchcore_engine.backbones.weights import Weights
from patchcore_engine.errors import DeviceError, WeightsError
from patchcore_engine.images import Geometry
from patchcore_engine.runtime import ISA_VARIABLE

if TYPE_CHECKING:
    from patchcore_engine.backbones.mindspore_extractor import MindSporeExtractor

# Measured on 83 test pictures of MVTec's bottle with efficientnet_lite0, against a bank fitted by MindSpore. float32:
# distances within 1e-4, scores within 2e-6. bfloat16: distances within 0.07 (999 of 1000 within 0.04), scores within
# 0.009, no other verdict, the same image AUROC, pixel AUROC within 0.0001.
FLOAT32_BOUNDS: Final = ParityBounds(distance=1e-3, score=1e-3)
REDUCED_BOUNDS: Final = ParityBounds(distance=0.2, score=2e-2)

_TYPES: Final = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


class OpenVinoExtractor(FixedBatchExtractor):
    """`FeatureExtractor` by OpenVINO on the CPU, a `SubstituteExtractor` of the `MindSporeExtractor` of these weights.

    `precision_hint`: what OpenVINO computes in; "auto" takes bfloat16 where the processor has it.
    `cache_dir`: keeps the exported network and what OpenVINO compiled of it; None for `default_cache_dir()`.
    `exported`: the network's file in it.
    Only the first start with a backbone loads MindSpore, to export it. May be made in one thread and used in another.
    Raises DeviceError where OpenVINO is missing or can't do what `precision_hint` asks, and ExportError.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        weights: Weights,
        *,
        geometry: Geometry | None = None,
        embedding: EmbeddingMode = "paper",
        precision_hint: PrecisionHint = "auto",
        batch_sizes: Sequence[int] = BATCH_SIZES,
        cache_dir: Path | None = None,
    ) -> None:
        self._core = _open_core()
        self._precision = _precision(self._core, precision_hint)
        self._spec = spec
        self._weights = weights
        self._geometry = geometry or spec.geometry
        side, _ = spec.grids(self._geometry.image_size)
        super().__init__(
            ExtractorIdentity(
                backbone=spec.name,
                weights_digest=weights.digest,
                embedding=embedding,
                image_size=self._geometry.image_size,
                precision="float32",
            ),
            grid=(side, side),
            dimension=spec.dimension,
            batch_sizes=batch_sizes,
        )
        self._cache_dir = cache_dir or default_cache_dir()
        self._requests: dict[int, Any] = {}
        self.exported = self._export()

    @property
    def geometry(self) -> Geometry:
        """What pictures must be prepared with."""
        return self._geometry

    @property
    def engine(self) -> str:
        return f"openvino {version('openvino')}, {self._precision}"

    @property
    def parity_bounds(self) -> ParityBounds:
        return FLOAT32_BOUNDS if self._precision == "float32" else REDUCED_BOUNDS

    @property
    def remedy(self) -> str:
        return 'Set precision_hint = "float32", or engine = "mindspore".'

    def reference(self) -> "MindSporeExtractor":
        from patchcore_engine.backbones.mindspore_extractor import MindSporeExtractor

        return MindSporeExtractor(
            self._spec,
            self._weights,
            geometry=self._geometry,
            embedding=self._identity.embedding,
            batch_sizes=self._batch_sizes,
        )

    def release(self) -> None:
        self._requests.clear()

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        count = len(images)
        if count not in self._requests:
            self._requests[count] = self._compile(count)
        # The answer is copied out: the request's own buffer is overwritten by the next batch.
        patches: NDArray[np.float32] = self._requests[count].infer([images], share_inputs=True)[0]
        return patches

    def _compile(self, batch_size: int) -> Any:
        side = self._identity.image_size
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            # faiss searches with as many threads between two batches: none of them may own a core.
            "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0)),
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": _TYPES[self._precision],
            "CACHE_DIR": str(self._cache_dir / "compiled"),
        }
        try:
            model = self._core.read_model(str(self.exported))
            model.reshape([batch_size, side, side, 3])
            if self._precision == "bfloat16":
                round_kernels(model)
            return self._core.compile_model(model, "CPU", settings).create_infer_request()
        except RuntimeError as error:
            raise DeviceError(
                f"OpenVINO can't run {self.exported.name}: {_first_line(error)} Remove {self._cache_dir}, or set "
                'engine = "mindspore".'
            ) from error

    def _export(self) -> Path:
        """Return the exported network, made now where the cache doesn't hold it whole."""
        identity = self._identity
        file = self._cache_dir / (
            f"{identity.backbone}-{identity.embedding}-{identity.image_size}-{identity.weights_digest[:16]}"
            f"-{version('patchline')}.onnx"
        )
        try:
            if read_sidecar(file).identity == identity:
                return file
        except WeightsError:
            # Missing or damaged: a cache is made anew.
            pass
        from patchcore_engine.backbones.export import export

        export(self.reference(), file, "onnx")
        return file


def default_cache_dir() -> Path:
    """Return patchline/openvino below $XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "patchline" / "openvino"


@cache
def _open_core() -> Any:
    if find_spec("openvino") is None:
        raise DeviceError("engine = \"openvino\" needs the package openvino. Run: pip install 'patchline[openvino]'")
    import openvino

    # OpenVINO carries a oneDNN of its own, which reads the limit meant for MindSpore's once, at its first convolution:
    # under it float32 is slow and bfloat16 doesn't compile.
    limit = os.environ.pop(ISA_VARIABLE, None)
    try:
        core = openvino.Core()
        core.compile_model(_smallest_convolution(), "CPU")
    except RuntimeError as error:
        raise DeviceError(f"OpenVINO can't use this processor: {_first_line(error)}") from error
    finally:
        if limit is not None:
            os.environ[ISA_VARIABLE] = limit
    return core


def _smallest_convolution() -> Any:
    import openvino
    from openvino import opset13 as ops

    picture = ops.parameter([1, 16, 8, 8], np.float32)
    kernel = ops.constant(np.ones((16, 16, 3, 3), np.float32))
    return openvino.Model([ops.convolution(picture, kernel, [1, 1], [1, 1], [1, 1], [1, 1])], [picture])


def _precision(core: Any, hint: PrecisionHint) -> str:
    """Return what OpenVINO will compute in: "float32", "bfloat16", or "float16" on some ARM processors."""
    if hint == "auto":
        chosen = core.get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name()
        return next((name for name, type_ in _TYPES.items() if type_ == chosen), "float32")
    if hint == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise DeviceError('This processor doesn\'t compute in bfloat16: set precision_hint = "auto" or "float32".')
    return hint


def _first_line(error: RuntimeError) -> str:
    """Return the last line of OpenVINO's message, which says what failed; those before name its source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given."
