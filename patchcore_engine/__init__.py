"""PatchCore: good pictures in, a memory bank out; pictures in, verdicts out."""

import os
from typing import Final

# A PNG of 249 KB can decode to 768 MB. OpenCV reads its limit once, when it is imported, and every module of this
# package that imports it comes after this line.
MAX_IMAGE_PIXELS: Final = int(os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(64_000_000)))
