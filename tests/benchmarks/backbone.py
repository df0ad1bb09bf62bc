"""Each backbone at each batch size, from prepared pictures to patch vectors; against PyTorch where it is at hand."""

import gc
import os
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.backbones.extractor import FeatureExtractor, PrecisionHint
from tests.benchmarks.child import ROOT, Child
from tests.benchmarks.figures import Options, Row, compared, in_turns, milliseconds

BATCHES: Final = (1, 4, 8)
FULL_BATCHES: Final = (1, 4, 8, 16)
ROUNDS: Final = 9
# Multiplications and additions of one picture up to the end of layer3.
_FLOP: Final = {("wide_resnet50_2", 224): 18.37e9}
_OPENVINO: Final[dict[str, PrecisionHint]] = {"openvino auto": "auto", "openvino float32": "float32"}
_REFERENCE: Final = ROOT / "tests" / "engine" / "reference"


def run(options: Options, machine: dict[str, Any]) -> Iterator[Row]:
    from patchcore_engine.backbones.registry import BACKBONES

    for backbone in options.backbones or BACKBONES:
        for batch in FULL_BATCHES if options.full else BATCHES:
            yield from _compare(backbone, batch, options, machine)
            gc.collect()


def _compare(backbone: str, batch: int, options: Options, machine: dict[str, Any]) -> list[Row]:
    image_size, contestants = _own_engines(backbone, batch)
    peer = None
    if options.torch_python is not None:
        arguments = {"backbone": backbone, "image-size": image_size, "batch": batch, "threads": os.cpu_count()}
        script = ROOT / "tests" / "benchmarks" / "torch_server.py"
        command = [str(options.torch_python), str(script), *(f"--{name}={value}" for name, value in arguments.items())]
        peer = Child(command, (_REFERENCE,))
        ask = peer.ask
        contestants["torch"] = lambda: ask("") / batch
    values = in_turns(contestants, options.rounds or ROUNDS)
    if peer is not None:
        peer.close()
    further: dict[str, dict[str, Any]] = {}
    operations = _FLOP.get((backbone, image_size))
    if operations is not None:
        for name, own in values.items():
            share = operations / (float(np.median(own)) / 1e3) / machine["fp32_matmul_flops"]
            further[name] = {"share_of_limit": share, "limit": "fp32"}
    what = f"{backbone}, {image_size} px, batch {batch}"
    return compared(what, "ms per picture", values, "torch" if peer is not None else "mindspore", further)


def _own_engines(backbone: str, batch: int) -> tuple[int, dict[str, Callable[[], float]]]:
    """Open every engine of this installation with the same random weights; times don't depend on them."""
    from patchcore_engine.backbones.factory import open_extractor

    extractor = open_extractor(backbone=backbone, weights="random:0", batch_sizes=(batch,))
    image_size = extractor.identity.image_size
    images = np.random.default_rng(0).integers(0, 256, (batch, image_size, image_size, 3), dtype=np.uint8)
    extractors = {"mindspore": extractor}
    if find_spec("openvino") is not None:
        for name, hint in _OPENVINO.items():
            extractors[name] = open_extractor(
                backbone=backbone,
                weights="random:0",
                batch_sizes=(batch,),
                engine="openvino",
                precision_hint=hint,
                cache_dir=Path(_openvino_cache().name),
            )
    return image_size, {name: _per_picture(opened, images) for name, opened in extractors.items()}


def _per_picture(extractor: FeatureExtractor, images: NDArray[np.uint8]) -> Callable[[], float]:
    timed = milliseconds(lambda: extractor.embed(images))
    return lambda: timed() / len(images)


@cache
def _openvino_cache() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="patchline-bench-")
