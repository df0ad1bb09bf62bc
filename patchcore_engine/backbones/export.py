"""Networks exported to a file that runs without their Python code, checked before it is left behind."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.backbones.mindspore_extractor import MindIRExtractor, MindSporeExtractor
from patchcore_engine.backbones.sidecar import Sidecar, file_sha256, sidecar_path, write_sidecar
from patchcore_engine.errors import ExportError
from patchcore_engine.runtime import library_versions

ExportFormat = Literal["mindir", "onnx"]

MAX_DEVIATION: Final = 1e-4
"""Largest relative difference of a patch distance that an exported network may show."""

_CHECK_PICTURES: Final = 3
_CHECK_BANK_VECTORS: Final = 64

Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Exported:
    """`deviation`: worst relative difference of a patch distance; None where `unchecked` says why it isn't known."""

    path: Path
    sidecar: Path
    deviation: float | None
    unchecked: str | None = None


def export(extractor: MindSporeExtractor, path: Path, format_: ExportFormat) -> Exported:
    """Write `extractor`'s network to `path`, any batch size, with its sidecar.

    The file is loaded back and must give the same patch distances; raises ExportError otherwise and leaves nothing.
    ONNX needs the package onnx, and its check onnxruntime; MindSpore exports the network of one extractor to it once.
    """
    if path.suffix != f".{format_}":
        raise ExportError(f"{path}: the name of an exported file must end in .{format_}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            draft = Path(folder) / f"network.{format_}"
            with _plainly_named(draft) as file:
                if format_ == "mindir":
                    _write_mindir(extractor, file)
                else:
                    _write_onnx(extractor, file)
            # MindSpore makes its files readable for their owner alone; a daemon runs as another user.
            draft.chmod(0o644)
            _describe(extractor, draft)
            deviation, unchecked = _check(extractor, draft, format_)
            # The sidecar first: a file without one is refused, an old file with a new one fails its digest.
            sidecar_path(draft).replace(sidecar_path(path))
            draft.replace(path)
    except OSError as error:
        raise ExportError(f"{path} can't be written: {error.strerror}.") from error
    return Exported(path, sidecar_path(path), deviation, unchecked)


def distance_deviation(reference: Embed, candidate: Embed, image_size: int) -> float:
    """Return the worst relative difference of patch distances between two networks, infinite if one isn't a number.

    On fixed pictures: distances of their patches to patches of another picture.
    """
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (_CHECK_PICTURES, image_size, image_size, 3)).astype(np.uint8)
    expected, found = reference(images), candidate(images)
    if expected.shape != found.shape or not np.isfinite(found).all():
        return float("inf")
    bank = expected[0, random.choice(expected.shape[1], _CHECK_BANK_VECTORS)].astype(np.float64)
    wanted, got = (_distances(patches[1:].reshape(-1, bank.shape[1]), bank) for patches in (expected, found))
    return float(np.max(np.abs(got - wanted) / np.maximum(wanted, np.finfo(np.float32).tiny)))


def _distances(patches: NDArray[np.float32], bank: NDArray[np.float64]) -> NDArray[np.float64]:
    queries = patches.astype(np.float64)
    squared = (queries**2).sum(1)[:, None] - 2 * queries @ bank.T + (bank**2).sum(1)
    distances: NDArray[np.float64] = np.sqrt(np.maximum(squared, 0).min(1))
    return distances


@contextmanager
def _plainly_named(file: Path) -> Iterator[Path]:
    """Yield another path of `file`: MindSpore refuses to write where a folder's name has a space or an umlaut."""
    with tempfile.TemporaryDirectory(prefix="patchline-export-") as folder:
        link = Path(folder) / "there"
        link.symlink_to(file.parent.absolute())
        yield link / file.name


def _describe(extractor: MindSporeExtractor, file: Path) -> None:
    sidecar = Sidecar(
        identity=extractor.identity,
        resize=extractor.geometry.resize,
        grid=extractor.grid,
        dimension=extractor.dimension,
        sha256=file_sha256(file),
        versions=library_versions(),
    )
    write_sidecar(file, sidecar)


def _write_mindir(extractor: MindSporeExtractor, file: Path) -> None:
    import mindspore

    size = extractor.identity.image_size
    anything = mindspore.Tensor(shape=[None, size, size, 3], dtype=mindspore.uint8)
    try:
        mindspore.export(extractor.network, anything, file_name=str(file), file_format="MINDIR")
    except (RuntimeError, ValueError, TypeError) as error:
        raise ExportError(f"MindSpore can't export {extractor.identity.backbone} to MindIR: {error}") from error


def _write_onnx(extractor: MindSporeExtractor, file: Path) -> None:
    if find_spec("onnx") is None:
        raise ExportError("Exporting to ONNX needs the package onnx. Run: pip install 'patchline[onnx]'")
    import mindspore
    import onnx

    size = extractor.identity.image_size
    one = mindspore.Tensor(np.zeros((1, size, size, 3), np.uint8))
    try:
        with extractor.network.portable():
            mindspore.onnx.export(extractor.network, one, file_name=str(file))
    except (RuntimeError, ValueError, TypeError) as error:
        raise ExportError(f"MindSpore can't export {extractor.identity.backbone} to ONNX: {error}") from error
    model = onnx.load(str(file))
    _free_batch(model)
    onnx.checker.check_model(model)
    file.chmod(0o600)
    onnx.save(model, str(file))


def _free_batch(model: Any) -> None:
    """Let the batch size vary: MindSpore's ONNX export fixes it in the graph's input, output and reshapes."""
    import onnx

    graph = model.graph
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    reshapes = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] in reshapes:
            shape = onnx.numpy_helper.to_array(node.attribute[0].t).copy()
            shape[0] = -1
            node.attribute[0].t.CopyFrom(onnx.numpy_helper.from_array(shape))


def _check(extractor: MindSporeExtractor, draft: Path, format_: ExportFormat) -> tuple[float | None, str | None]:
    if format_ == "onnx" and find_spec("onnxruntime") is None:
        return None, "the check needs the package onnxruntime: pip install 'patchline[onnx]'"
    candidate = MindIRExtractor(draft, batch_sizes=(1, _CHECK_PICTURES)).embed if format_ == "mindir" else _onnx(draft)
    reference = _one_by_one(extractor.embed)
    deviation = distance_deviation(reference, candidate, extractor.identity.image_size)
    if not deviation <= MAX_DEVIATION:
        raise ExportError(
            f"The exported network deviates: patch distances differ by {deviation:.1e}, more than {MAX_DEVIATION:.0e}. "
            "Nothing was written."
        )
    return deviation, None


def _one_by_one(embed: Embed) -> Embed:
    """The reference runs with the batch size that is compiled in any case, and the candidate with another one."""
    return lambda images: np.concatenate([embed(images[i : i + 1]) for i in range(len(images))])


def _onnx(file: Path) -> Embed:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def embed(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        patches: NDArray[np.float32] = session.run(None, {name: images})[0]
        return patches

    return embed
