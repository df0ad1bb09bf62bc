"""Give MindSpore an OpenMP runtime on systems without one.

Its wheel takes libgomp.so.1 from the system, and a minimal Debian has none. scikit-learn's wheel brings a copy under
another name; a link in the folder where MindSpore's libraries look first makes it theirs.
"""

import ctypes
import sys
import sysconfig
from pathlib import Path

NAME = "libgomp.so.1"


def main() -> None:
    packages = Path(sysconfig.get_path("platlib"))
    link = packages / "mindspore" / "lib" / NAME
    if link.is_symlink() and not link.exists():
        link.unlink()
    try:
        ctypes.CDLL(NAME)
    except OSError:
        copies = sorted((packages / "scikit_learn.libs").glob("libgomp*.so*"))
        if not copies:
            sys.exit(f"error: MindSpore needs {NAME} and this system has none. On Debian: apt-get install libgomp1")
        if not link.exists():
            link.symlink_to(Path("..", "..", copies[0].parent.name, copies[0].name))


if __name__ == "__main__":
    main()
