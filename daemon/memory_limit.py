"""How much memory this process may use: a setting, its control group, or what the host has."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import psutil

CGROUP_MOUNT: Final = Path("/sys/fs/cgroup")
CGROUP_OF_PROCESS: Final = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """`source` says where the limit comes from, for people."""

    bytes: int
    source: str


def memory_limit(configured: int) -> MemoryLimit:
    """Return what the process may use. `configured`: service.memory_bytes, 0 = find out."""
    if configured:
        return MemoryLimit(configured, "service.memory_bytes")
    physical = MemoryLimit(psutil.virtual_memory().total, "the host's memory")
    group = cgroup_limit()
    return min((limit for limit in (physical, group) if limit is not None), key=lambda limit: limit.bytes)


def cgroup_limit(of_process: Path = CGROUP_OF_PROCESS, mount: Path = CGROUP_MOUNT) -> MemoryLimit | None:
    """Return the smallest memory.max of this process's control group and those above it (cgroup v2); None if none."""
    try:
        lines = of_process.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    path = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), None)
    if path is None:
        return None
    limits = []
    own = PurePosixPath(path.lstrip("/"))
    for group in (own, *own.parents):
        try:
            text = (mount / group / "memory.max").read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdecimal():
            limits.append(MemoryLimit(int(text), f"memory.max of the control group /{group if group.name else ''}"))
    return min(limits, key=lambda limit: limit.bytes, default=None)
