"""Paths as text: a file's name is bytes, and needn't be text."""

import os
from pathlib import Path


def path_text(path: str | Path) -> str:
    r"""Return `path` as text that can be written as UTF-8; bytes of it that aren't UTF-8 are shown as `\xe4`."""
    return os.fsencode(path).decode(errors="backslashreplace")
