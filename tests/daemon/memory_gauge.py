"""What a daemon may hold by its budget, and what it holds."""

from pathlib import Path

import psutil

from daemon.config import MIB, load_settings
from daemon.memory_budget import MemoryBudget, footprints, memory_budget
from daemon.memory_limit import MemoryLimit
from tests.daemon.conftest import DaemonProcess

# The allocator's own, and what the daemon makes of 100 messages.
SLACK_BYTES = 24 * MIB


def budget_of(daemon: DaemonProcess) -> dict[str, int]:
    settings = load_settings(daemon.config)
    budget: MemoryBudget = memory_budget(settings, footprints(settings), MemoryLimit(2**40, "a test"))
    return {share.name: share.bytes for share in budget.shares}


class Growth:
    """How far a daemon's resident memory rises above what it is now."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self._process = psutil.Process(daemon.pid)
        self._status = Path(f"/proc/{daemon.pid}/status")
        self._begin = self._process.memory_info().rss
        # The kernel's own record of the peak, begun anew.
        Path(f"/proc/{daemon.pid}/clear_refs").write_text("5")

    @property
    def now(self) -> int:
        return int(self._process.memory_info().rss) - self._begin

    @property
    def peak(self) -> int:
        (line,) = [line for line in self._status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024 - self._begin


class Held:
    """A daemon's anonymous memory, which its budget is held against: pages of files, its libraries, aren't counted."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self._status = Path(f"/proc/{daemon.pid}/status")
        self._begin = self.now
        Path(f"/proc/{daemon.pid}/clear_refs").write_text("5")

    @property
    def now(self) -> int:
        return self._read("RssAnon")

    @property
    def peak(self) -> int:
        return self._read("VmHWM") - self._read("RssFile")

    def is_back(self) -> bool:
        return self.now < self._begin + SLACK_BYTES

    def _read(self, name: str) -> int:
        (line,) = [line for line in self._status.read_text().splitlines() if line.startswith(f"{name}:")]
        return int(line.split()[1]) * 1024
