"""How a device that ran out of memory says so: there is no type of error for it, only words.

MindSpore 2.10 raises RuntimeError: "Memory not enough", "Device(id:0) memory isn't enough and alloc failed, kernel
name: ..., alloc size: ...B", "Out of Memory!!! Request memory size: ...", "Allocate device memory failed"; below it
CANN reports EL0004, "Failed to allocate memory". NumPy and faiss raise MemoryError for the host's.
"""

from typing import Final

_WORDS: Final = (
    "memory not enough",
    "memory isn't enough",
    "out of memory",
    "device memory failed",
    "failed to allocate memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that a batch didn't fit, so that a smaller one may."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _WORDS)
