"""anomalib's PatchCore, run by a Python that has anomalib: each line on stdin is one piece of work, answered by ms.

    PYTHON -m tests.benchmarks.peers_anomalib fit PICTURES ...        "fit" fits a bank; "save" writes and exports it
    PYTHON -m tests.benchmarks.peers_anomalib torch PICTURES ...      each line is the number of the picture to judge
    PYTHON -m tests.benchmarks.peers_anomalib openvino PICTURES ...   the same with the export

Pictures are decoded, resized and cropped as patchline does it, so that both judge the same pixels.
"""

import argparse
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.images import Geometry, list_pictures, read

MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)
# As anomalib's own data modules.
TRAIN_BATCH: Final = 32


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=("fit", "torch", "openvino"))
    parser.add_argument("pictures", type=Path)
    for name in ("count", "threads", "resize", "image-size"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--ratio", type=float, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where the bank and the export are kept")
    parser.add_argument("--without-coreset", action="store_true", help="take the first patches for the bank")
    asked = parser.parse_args()
    # Progress bars and advice on deprecated imports would stand between the rows.
    os.environ["TQDM_DISABLE"] = "1"
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    geometry = Geometry(resize=asked.resize, image_size=asked.image_size)
    paths = list_pictures(asked.pictures)[: asked.count]
    if asked.work == "fit":
        answers = _fitting(asked, paths, geometry)
    else:
        judge = _torch_judge(asked) if asked.work == "torch" else _openvino_judge(asked)
        answers = _judging(judge, [geometry.prepare(read(path)).pixels for path in paths])
    for line in sys.stdin:
        begin = time.perf_counter()
        answers(line.strip())
        print((time.perf_counter() - begin) * 1e3, flush=True)


def _fitting(asked: argparse.Namespace, paths: list[Path], geometry: Geometry) -> Callable[[str], object]:
    model = _patchcore(asked)

    def fit() -> None:
        if asked.without_coreset:
            _embed(model, paths[: math.ceil(len(paths) * asked.ratio)], geometry)
            model.model.memory_bank = _stacked(model.model.embedding_store)
        else:
            _embed(model, paths, geometry)
            model.fit()

    def save() -> None:
        np.save(asked.folder / "bank.npy", model.model.memory_bank.numpy())
        size = (asked.image_size, asked.image_size)
        model.eval()
        # Left to itself it exports a batch of two, which takes no single picture.
        fixed = {"opset_version": 18, "dynamic_shapes": None, "verbose": False}
        model.to_openvino(asked.folder, input_size=size, onnx_kwargs=fixed)

    work = {"fit": fit, "save": save}
    return lambda line: work[line]()


def _embed(model: Any, paths: list[Path], geometry: Geometry) -> None:
    import torch  # type: ignore[import-not-found, unused-ignore]

    model.model.train()
    with torch.inference_mode():
        for start in range(0, len(paths), TRAIN_BATCH):
            batch = np.stack([geometry.prepare(read(path)).pixels for path in paths[start : start + TRAIN_BATCH]])
            model.model(model.pre_processor(_planes(batch)))


def _judging(
    judge: Callable[[NDArray[np.uint8]], object], prepared: list[NDArray[np.uint8]]
) -> Callable[[str], object]:
    return lambda line: judge(prepared[int(line) % len(prepared)][None])


def _torch_judge(asked: argparse.Namespace) -> Callable[[NDArray[np.uint8]], object]:
    import torch  # type: ignore[import-not-found, unused-ignore]

    model = _patchcore(asked)
    model.model.memory_bank = torch.from_numpy(np.load(asked.folder / "bank.npy"))
    model.eval()

    def judge(batch: NDArray[np.uint8]) -> object:
        with torch.inference_mode():
            found = model(_planes(batch))
        return found.pred_score.numpy(), found.anomaly_map.numpy()

    return judge


def _openvino_judge(asked: argparse.Namespace) -> Callable[[NDArray[np.uint8]], object]:
    import openvino

    exported = asked.folder / "weights" / "openvino" / "model.xml"
    compiled = openvino.Core().compile_model(exported, "CPU", {"INFERENCE_NUM_THREADS": asked.threads})

    def judge(batch: NDArray[np.uint8]) -> object:
        planes = batch.transpose(0, 3, 1, 2).astype(np.float32)
        planes /= 255
        return list(compiled(planes).values())

    return judge


def _planes(batch: NDArray[np.uint8]) -> Any:
    import torch  # type: ignore[import-not-found, unused-ignore]

    return torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255


def _stacked(parts: list[Any]) -> Any:
    import torch  # type: ignore[import-not-found, unused-ignore]

    return torch.vstack(parts)


def _patchcore(asked: argparse.Namespace) -> Any:
    """Return anomalib's PatchCore with the weights of the other contestants and no vectors in its bank."""
    import torch  # type: ignore[import-not-found, unused-ignore]

    torch.set_num_threads(asked.threads)
    # torchvision is installed without the libraries of its GPU build; it declares its operators only where they load,
    # but refers to these two when it is imported.
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from anomalib.models import Patchcore  # type: ignore[import-not-found, unused-ignore]
    from anomalib.pre_processing import PreProcessor  # type: ignore[import-not-found, unused-ignore]
    from torchvision.transforms.v2 import Normalize  # type: ignore[import-not-found, unused-ignore]

    model = Patchcore(
        backbone="wide_resnet50_2",
        layers=("layer2", "layer3"),
        pre_trained=False,
        coreset_sampling_ratio=asked.ratio,
        pre_processor=PreProcessor(transform=Normalize(mean=MEAN, std=STD)),
        post_processor=False,
        evaluator=False,
        visualizer=False,
    )
    network = model.model.feature_extractor.feature_extractor
    with np.load(asked.weights) as weights:
        tensors = {name: torch.from_numpy(weights[name]) for name in weights.files}
    found = network.load_state_dict(tensors, strict=False)
    missing = [name for name in found.missing_keys if not name.endswith("num_batches_tracked")]
    if missing or found.unexpected_keys:
        raise SystemExit(f"The weights don't fit anomalib's network: {missing[:3]}, {found.unexpected_keys[:3]}.")
    return model


if __name__ == "__main__":
    main()
