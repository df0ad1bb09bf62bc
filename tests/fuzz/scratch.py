"""A folder for files that are written anew thousands of times a minute: in memory, where the host has that."""

import tempfile
from pathlib import Path

_MEMORY = Path("/dev/shm")  # noqa: S108  (a name of its own is drawn in it)


def scratch_folder() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None)
