"""How much memory of its own this process holds, and giving back what it holds no longer."""

import ctypes
import os
import re
from contextlib import suppress
from typing import Final

_STATUS: Final = "/proc/self/status"
_STATUS_BYTES: Final = 4096
# As the kernel writes them (man 5 proc), in KiB.
_HELD: Final = re.compile(rb"^(?:RssAnon|VmSwap):\s+(\d+) kB", re.MULTILINE)
_C_LIBRARY: Final = ctypes.CDLL(None)


class OwnMemory:
    """Reads this process's anonymous memory. Raises OSError where there is no /proc.

    What ZeroMQ keeps is anonymous, and memory that was swapped out is still held; pages of files (the libraries) aren't
    counted, for the kernel takes those away by itself when there is need.
    """

    def __init__(self) -> None:
        # Kept open: no descriptor may be left when it is needed.
        self._status = os.open(_STATUS, os.O_RDONLY | os.O_CLOEXEC)

    def held(self) -> int:
        """Return the bytes held, in RAM or swapped out; takes some 20 microseconds."""
        return 1024 * sum(map(int, _HELD.findall(os.pread(self._status, _STATUS_BYTES, 0))))

    def close(self) -> None:
        os.close(self._status)


def give_back() -> None:
    """Return to the system what was freed. glibc keeps it otherwise: up to nine tenths of a message of 1.5 GiB.

    Takes up to 100 ms for a GiB, and allocations of other threads wait for parts of that.
    """
    # AttributeError: another C library than glibc.
    with suppress(AttributeError):
        _C_LIBRARY.malloc_trim(0)
