"""PatchCore: good pictures in, a memory bank out; pictures in, verdicts out."""

import os
from typing import Final

# A PNG of 249 KB can decode to 768 MB. OpenCV reads its limit once, when it is imported, and every module of this
# package that imports it comes after this line.
MAX_IMAGE_PIXELS: Final = int(os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(64_000_000)))

# Between two parallel loops OpenMP's threads spin for milliseconds by default, and take the cores that other threads of
# the process wait for. faiss's OpenMP reads this once, when it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
