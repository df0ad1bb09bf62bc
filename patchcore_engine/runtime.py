"""The process settings that must precede `import mindspore`, and the choice of device."""

import os
import platform
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

from patchcore_engine.errors import DeviceError

Device = Literal["CPU", "Ascend"]
Precision = Literal["float32", "float16"]

ISA_VARIABLE: Final = "ONEDNN_MAX_CPU_ISA"
# Above this instruction set the oneDNN in MindSpore's CPU wheel computes every 3x3 convolution with its reference
# loop, about 200 times slower.
FASTEST_ISA: Final = "AVX2"


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """What `prepare_process` found and did.

    `onednn_max_cpu_isa`: the value in force, None where oneDNN chooses.
    `isa_guard`: "set" by this call, "kept" as it was found, or "not needed" on this processor.
    """

    onednn_max_cpu_isa: str | None
    isa_guard: Literal["set", "kept", "not needed"]


def prepare_process(
    environment: MutableMapping[str, str] = os.environ, *, cpu_flags: frozenset[str] | None = None
) -> ProcessSettings:
    """Set what MindSpore's libraries read once, when they are loaded; call it before `import mindspore`.

    It may be called again and then changes nothing. `cpu_flags` stands in for the processor's own (see `cpu_flags`).
    """
    # MindSpore logs to stderr at WARNING by default, among it advice about Ascend packages on hosts without one.
    environment.setdefault("GLOG_v", "3")
    # MindSpore's import sets this to 1 where it is absent, and faiss then searches with one thread, in twice the time.
    environment.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    flags = read_cpu_flags() if cpu_flags is None else cpu_flags
    current = environment.get(ISA_VARIABLE)
    if current is not None:
        return ProcessSettings(current, "kept")
    if "avx512f" not in flags:
        return ProcessSettings(None, "not needed")
    environment[ISA_VARIABLE] = FASTEST_ISA
    return ProcessSettings(FASTEST_ISA, "set")


def read_cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the processor's feature flags; empty where the kernel doesn't tell or it isn't x86-64."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return frozenset()
    try:
        match = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(encoding="ascii", errors="replace"), re.MULTILINE)
    except OSError:
        return frozenset()
    return frozenset(match.group(1).split()) if match else frozenset()


def open_device(device: Device, device_id: int = 0) -> None:
    """Make `device` the one that every network of this process runs on, in graph mode.

    Raises DeviceError where it is absent, or where another device is already in use.
    """
    prepare_process()
    import mindspore

    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    if device == "CPU":
        device_id = 0
    try:
        mindspore.set_device(device, device_id)
    except (RuntimeError, ValueError, TypeError) as error:
        raise DeviceError(_explain(device, device_id, str(error))) from error


def check_precision(device: Device, precision: Precision) -> None:
    """Raise DeviceError where `device` can't compute in `precision`."""
    if device == "CPU" and precision != "float32":
        raise DeviceError(f'precision "{precision}" needs an Ascend device: on a CPU set precision = "float32".')


def _explain(device: Device, device_id: int, reason: str) -> str:
    if device == "Ascend" and "Unsupported device target" in reason:
        return (
            "This host has no usable Ascend device: MindSpore can't load its Ascend libraries. "
            'Install the CANN toolkit and source its set_env.sh, or set device = "CPU".'
        )
    first_line = reason.strip().splitlines()[0] if reason.strip() else "no reason given"
    return f"Device {device} {device_id} can't be used: {first_line}"


def library_versions() -> Mapping[str, str]:
    """Return the versions of the libraries that decide what a network computes."""
    return {name: version(name) for name in ("mindspore", "numpy")}
