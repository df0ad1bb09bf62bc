"""The feature extractors that fit, eval and inspect work with, and the options that choose them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from patchcore_engine.backbones.extractor import EmbeddingMode, FeatureExtractor
    from patchcore_engine.bank import MemoryBank
    from patchcore_engine.images import Geometry
    from patchcore_engine.inspector import Inspector

Device = Literal["CPU", "Ascend"]
Precision = Literal["float32", "float16"]
Engine = Literal["mindspore", "openvino"]
PrecisionHint = Literal["auto", "float32", "bfloat16"]
Search = Literal["faiss", "device"]

WeightsOption = Annotated[
    str | None,
    typer.Option(help="A .pth or .ckpt file, or random:SEED. Default: the published weights.", show_default=False),
]
BackboneFileOption = Annotated[
    Path | None, typer.Option(help="Run this exported .mindir instead of the named backbone.", show_default=False)
]
DeviceOption = Annotated[Device, typer.Option(help="Where the backbone runs.")]
DeviceIdOption = Annotated[int, typer.Option(min=0, help="Which NPU, where there are several.")]

EngineOption = Annotated[
    Engine,
    typer.Option(help="openvino: faster on a CPU, from the same weights; needs patchline\\[openvino]."),
]
PrecisionHintOption = Annotated[
    PrecisionHint, typer.Option(help="With --engine openvino: auto takes bfloat16 where the processor has it.")
]
SearchOption = Annotated[
    Search, typer.Option(help="Where banks are searched. device: where MindSpore runs, meant for an NPU.")
]


@dataclass(kw_only=True, slots=True)
class Extractors:
    """Opens extractors as the options say, each kind once: compiling one takes seconds."""

    weights: str | None
    backbone_file: Path | None
    device: Device
    device_id: int
    engine: Engine = "mindspore"
    precision_hint: PrecisionHint = "auto"
    search: Search = "faiss"
    _opened: "dict[object, FeatureExtractor]" = field(default_factory=dict)

    def open(
        self, backbone: str, geometry: "Geometry", embedding: "EmbeddingMode", precision: Precision
    ) -> "FeatureExtractor":
        """Return an extractor; an open one of the same kind is used again. Raises PatchcoreError."""
        from patchcore_engine.runtime import prepare_process

        key = (backbone, geometry, embedding, precision)
        if key not in self._opened:
            prepare_process()
            from patchcore_engine.backbones.factory import open_extractor

            self._opened[key] = open_extractor(
                backbone=backbone,
                weights=self.weights,
                backbone_file=self.backbone_file,
                geometry=geometry,
                embedding=embedding,
                device=self.device,
                device_id=self.device_id,
                precision=precision,
                engine=self.engine,
                precision_hint=self.precision_hint,
                search=self.search,
            )
        return self._opened[key]

    def inspector(self, bank: "MemoryBank") -> "Inspector":
        """Return an inspector for `bank`, with the extractor it was made with, or one that gives the same results.

        Raises PatchcoreError.
        """
        from patchcore_engine.inspector import Inspector

        manifest = bank.manifest
        extractor = self.open(manifest.backbone, manifest.geometry, manifest.embedding, manifest.precision)
        inspector = Inspector(extractor, bank)
        inspector.check_parity()
        return inspector


def load_bank(path: Path) -> "MemoryBank":
    """Load a version's folder, or the active version of a recipe's folder. Raises BankError."""
    from patchcore_engine.bank import MemoryBank
    from patchcore_engine.bank_store import resolve

    return MemoryBank.load(resolve(path))
