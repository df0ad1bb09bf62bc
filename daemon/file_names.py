"""Names from the wire, made fit for a folder and for a terminal."""

import re
import unicodedata
from typing import Final

LONGEST_NAME: Final = 64
_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


def safe_name(name: str, longest: int = LONGEST_NAME) -> str:
    """Return `name` as one path component that is visible and can't leave its folder."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:longest]
    return f"_{name[1:]}" if name.startswith(".") or not name else name


def printable(text: str) -> str:
    """Return `text` without control characters, which could give a terminal orders, and line separators."""
    return "".join(_REPLACEMENT if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") else c for c in text)
