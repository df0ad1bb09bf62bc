"""What the machine is and the most that it can give: the limits that figures are held against."""

import os
import platform
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from patchcore_engine.runtime import ISA_VARIABLE

LIBRARIES: Final = (
    "mindspore",
    "numpy",
    "faiss-cpu",
    "opencv-python-headless",
    "openvino",
    "onnxruntime",
    "pyzmq",
    "msgpack",
    "pydantic",
)
MATRIX_SIDE: Final = 2048
COPIED_BYTES: Final = 256 * 2**20
# What each limit is measured for; the best time counts.
SECONDS: Final = 1.0

_TORCH_BF16: Final = """
import time, torch
a = torch.randn({side}, {side}).bfloat16()
a @ a
times = []
end = time.perf_counter() + {seconds}
while time.perf_counter() < end:
    begin = time.perf_counter()
    a @ a
    times.append(time.perf_counter() - begin)
print(min(times))
"""


def machine(torch_python: Path | None = None) -> dict[str, Any]:
    """Measure the machine's limits, which takes a few seconds. bf16 is measured where a Python with torch is given."""
    matrix = np.random.default_rng(0).standard_normal((MATRIX_SIDE, MATRIX_SIDE), dtype=np.float32)
    product = np.empty_like(matrix)
    operations = 2 * MATRIX_SIDE**3
    fp32_s = _best_s(lambda: np.matmul(matrix, matrix, out=product))
    bf16_s = _torch_bf16_s(torch_python) if torch_python is not None else None
    source = np.ones(COPIED_BYTES, dtype=np.uint8)
    target = np.empty_like(source)
    copy_s = _best_s(lambda: np.copyto(target, source))
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average_at_start": os.getloadavg()[0],
        "fp32_matmul_flops": operations / fp32_s,
        "bf16_matmul_flops": operations / bf16_s if bf16_s is not None else None,
        "copy_bytes_per_s": COPIED_BYTES / copy_s,
        "libraries": {name: found for name in LIBRARIES if (found := _version(name)) is not None},
    }


def _best_s(call: Callable[[], object]) -> float:
    call()
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while not times or time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)


def _torch_bf16_s(python: Path) -> float | None:
    script = _TORCH_BF16.format(side=MATRIX_SIDE, seconds=SECONDS)
    # What keeps MindSpore's convolutions fast keeps PyTorch from bf16.
    environment = {name: value for name, value in os.environ.items() if name != ISA_VARIABLE}
    done = subprocess.run([str(python), "-c", script], capture_output=True, text=True, check=False, env=environment)
    return float(done.stdout) if done.returncode == 0 else None


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
