"""What can be wrong with a host, its libraries, weights and banks, found before the line depends on them."""

import hashlib
import importlib
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

import numpy as np

from patchcore_engine import runtime
from patchcore_engine.errors import DigestMismatchError, PatchcoreError, WeightsMissingError

Status = Literal["ok", "warning", "fail"]

MINDSPORE_VERSION: Final = "2.10.0"
# Distribution and the module it is imported by; the order is the report's.
LIBRARIES: Final = {
    "mindspore": "mindspore",
    "numpy": "numpy",
    "faiss-cpu": "faiss",
    "opencv-python-headless": "cv2",
    "pyzmq": "zmq",
}
OPENVINO_LIBRARIES: Final = {"openvino": "openvino", "onnx": "onnx"}
# oneDNN's reference loop reaches about a hundredth of a matrix product's speed, its real kernels at least a quarter.
SLOW_CONVOLUTION: Final = 0.05
SLOW_MEMORY_GB_S: Final = 3.0
REINSTALL: Final = "Install the locked versions again: pip install --require-hashes -r requirements/runtime.lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The outcome of one check. `remedy` says what to do about a warning or a fail; `figures` are for programs."""

    check: str
    status: Status
    detail: str
    remedy: str | None = None
    figures: Mapping[str, float | str] = field(default_factory=dict)


def check_python(version: tuple[int, int] = sys.version_info[:2]) -> Finding:
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if (3, 11) <= version < (3, 13):
        return Finding(check="python", status="ok", detail=detail)
    return Finding(check="python", status="fail", detail=detail, remedy="Use Python 3.11 or 3.12.")


def check_libraries(libraries: Mapping[str, str] = LIBRARIES) -> Iterator[Finding]:
    """Import each library, distribution -> module; a wheel can be installed and still lack a system library."""
    runtime.prepare_process()
    for distribution, module in libraries.items():
        check = f"library {distribution}"
        try:
            version = metadata.version(distribution)
            importlib.import_module(module)
        except metadata.PackageNotFoundError:
            yield Finding(check=check, status="fail", detail="not installed", remedy=REINSTALL)
        except (ImportError, OSError) as error:
            remedy = "On Debian: apt-get install libgomp1" if "libgomp" in str(error) else REINSTALL
            yield Finding(check=check, status="fail", detail=f"can't be imported: {error}", remedy=remedy)
        else:
            tested = distribution != "mindspore" or version == MINDSPORE_VERSION
            yield Finding(
                check=check,
                status="ok" if tested else "warning",
                detail=version,
                remedy=None if tested else f"patchline is tested with mindspore {MINDSPORE_VERSION}. {REINSTALL}",
                figures={"version": version},
            )


def check_device(device: runtime.Device = "CPU", device_id: int = 0, *, nodes: Path = Path("/dev")) -> Finding:
    """Open `device`, and say which Ascend devices the host shows."""
    visible = sorted(node.name for node in nodes.glob("davinci[0-9]*"))
    ascend = f"Ascend devices visible: {', '.join(visible)}" if visible else "no Ascend device visible"
    try:
        runtime.open_device(device, device_id)
    except PatchcoreError as error:
        remedy = "Install driver, firmware and CANN toolkit, and let this user into the group that owns /dev/davinci*."
        return Finding(check="device", status="fail", detail=f"{error} ({ascend})", remedy=remedy)
    if device == "CPU" and visible:
        remedy = 'Set device = "Ascend" in [engine] to use it.'
        return Finding(check="device", status="warning", detail=f"CPU in use; {ascend}", remedy=remedy)
    return Finding(check="device", status="ok", detail=f"{device} {device_id} opens; {ascend}")


def check_convolution_guard(settings: runtime.ProcessSettings | None = None) -> Finding:
    """Say what keeps oneDNN from its reference convolution on AVX-512 processors."""
    settings = runtime.prepare_process() if settings is None else settings
    check, value = "oneDNN guard", settings.onednn_max_cpu_isa
    if settings.isa_guard == "not needed":
        return Finding(check=check, status="ok", detail="not needed: this processor has no AVX-512")
    slow = value is not None and value.upper() not in ("AVX2", "AVX", "SSE41")
    return Finding(
        check=check,
        status="warning" if slow else "ok",
        detail=f"{runtime.ISA_VARIABLE}={value}",
        remedy=f"Unset {runtime.ISA_VARIABLE}: patchline then sets {runtime.FASTEST_ISA}." if slow else None,
    )


def check_convolution(size: int = 56, channels: int = 128) -> Finding:
    """Time a 3x3 convolution of the open device against a matrix product of numpy on this host."""
    runtime.prepare_process()
    import mindspore
    from mindspore import nn

    convolution = nn.Conv2d(channels, channels, 3, pad_mode="pad", padding=1, weight_init="ones")
    image = mindspore.Tensor(np.ones((1, channels, size, size), np.float32))
    matrix = np.ones((1024, 1024), np.float32)
    seconds = _best_seconds(lambda: convolution(image).asnumpy())
    speed = 2 * 9 * channels**2 * size**2 / seconds / 1e9
    matrix_speed = 2 * 1024**3 / _best_seconds(lambda: matrix @ matrix) / 1e9
    slow = speed < SLOW_CONVOLUTION * matrix_speed
    return Finding(
        check="convolution 3x3",
        status="warning" if slow else "ok",
        detail=f"{seconds * 1e3:.1f} ms, {speed:.0f} GFLOP/s (a matrix product here: {matrix_speed:.0f} GFLOP/s)",
        remedy=f"Convolutions run in a reference loop. Unset {runtime.ISA_VARIABLE}, or set it to AVX2."
        if slow
        else None,
        figures={"milliseconds": seconds * 1e3, "gflops": speed, "matrix_gflops": matrix_speed},
    )


def check_memory_bandwidth(megabytes: int = 256) -> Finding:
    source = np.ones(megabytes * 2**20, np.uint8)
    target = np.empty_like(source)
    speed = source.nbytes / _best_seconds(lambda: np.copyto(target, source)) / 1e9
    slow = speed < SLOW_MEMORY_GB_S
    return Finding(
        check="memory bandwidth",
        status="warning" if slow else "ok",
        detail=f"{speed:.1f} GB/s copied by one thread",
        remedy="Other work on this host takes the memory's time; the search in the bank slows down." if slow else None,
        figures={"gigabytes_per_second": speed},
    )


def check_faiss(patches: int = 784, vectors: int = 1638, dimension: int = 1536) -> Finding:
    """Compare faiss's threads with the processors this process may use, and time one exact search."""
    import faiss

    threads, processors = int(faiss.omp_get_max_threads()), len(os.sched_getaffinity(0))
    random = np.random.default_rng(0)
    index = faiss.IndexFlatL2(dimension)
    index.add(random.standard_normal((vectors, dimension), dtype=np.float32))
    queries = random.standard_normal((patches, dimension), dtype=np.float32)
    seconds = _best_seconds(lambda: index.search(queries, 1))
    return Finding(
        check="faiss threads",
        status="ok" if threads == processors else "warning",
        detail=f"{threads} of {processors} processors; {patches} patches against {vectors:,} x {dimension}: "
        f"{seconds * 1e3:.0f} ms",
        remedy=None if threads == processors else f"Unset OMP_NUM_THREADS, or set it to {processors}.",
        figures={"threads": threads, "processors": processors, "search_milliseconds": seconds * 1e3},
    )


def check_weights(weights_dir: Path | None = None) -> Iterator[Finding]:
    """Read the published weights of every backbone that are on this host. Absent ones are no fault by themselves."""
    from patchcore_engine.backbones.registry import BACKBONES, backbone_spec
    from patchcore_engine.backbones.weights import default_weights_dir, find_published, load_weights

    for name in BACKBONES:
        check, spec = f"weights {name}", backbone_spec(name)
        try:
            path = find_published(spec, weights_dir or default_weights_dir())
            if path.name == spec.published.file_name:
                _check_file_digest(path, spec.published.sha256)
            weights = load_weights(path, spec)
        except WeightsMissingError as error:
            yield Finding(check=check, status="ok", detail=f"absent. {error}")
        except (PatchcoreError, OSError) as error:
            remedy = f"Remove the file and get it again: patchline weights pull {name}"
            yield Finding(check=check, status="fail", detail=str(error), remedy=remedy)
        else:
            figures = {"digest": weights.digest, "file": str(path)}
            yield Finding(check=check, status="ok", detail=f"{weights.digest[:12]}, {path}", figures=figures)


def check_bank(
    path: Path, recipe: str, *, weights: str | None = None, weights_dir: Path | None = None, needs_weights: bool = True
) -> Iterator[Finding]:
    """Verify the bank that `path` (a version or a recipe's folder) stands for, and that its weights are here.

    `weights`: as `load_weights` takes them.
    """
    from patchcore_engine.backbones.registry import backbone_spec
    from patchcore_engine.backbones.sleeping import NAME as SLEEPING
    from patchcore_engine.backbones.weights import load_weights
    from patchcore_engine.bank import MemoryBank
    from patchcore_engine.bank_store import resolve

    try:
        folder = resolve(path)
        bank = MemoryBank.load(folder)
    except (PatchcoreError, OSError) as error:
        remedy = f"Fit it again, or go back to the version before: patchline bank rollback {recipe}"
        yield Finding(check=f"bank {recipe}", status="fail", detail=str(error), remedy=remedy)
        return
    manifest = bank.manifest
    detail = f"{folder.name}: {len(bank.index):,} vectors, {manifest.backbone}, all digests match"
    yield Finding(check=f"bank {recipe}", status="ok", detail=detail, figures={"version": folder.name})
    if not needs_weights or manifest.backbone == SLEEPING:
        return
    try:
        digest = load_weights(weights, backbone_spec(manifest.backbone), weights_dir=weights_dir).digest
    except (PatchcoreError, OSError) as error:
        remedy = f"Bring the weights the bank was made with, or fit it with those that are here: {recipe}"
        yield Finding(check=f"weights of bank {recipe}", status="fail", detail=str(error), remedy=remedy)
        return
    same = digest == manifest.weights_digest
    yield Finding(
        check=f"weights of bank {recipe}",
        status="ok" if same else "fail",
        detail=f"{manifest.backbone} {digest[:12]}"
        + ("" if same else f"; the bank was made with {manifest.weights_digest[:12]}"),
        remedy=None if same else "Name the bank's own weights in config.toml, or fit the bank again.",
    )


def _check_file_digest(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(expected):
        raise DigestMismatchError(f"{path} has the digest {found[:12]}, not the published {expected[:12]}.")


def _best_seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Return the shortest of `repeats` runs after one that isn't counted (it compiles, or touches fresh memory)."""
    work()
    times = []
    for _ in range(repeats):
        started = time.monotonic_ns()
        work()
        times.append(time.monotonic_ns() - started)
    return max(min(times), 1) / 1e9
