"""What a daemon may hold by its budget, and what it holds."""

from pathlib import Path

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


class Held:
    """A daemon's memory; pages of files, which its libraries share with others, are in the peak alone."""

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
