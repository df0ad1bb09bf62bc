"""NumPy's .npz files, read within their own size: a header may state any shape, and a compressed entry unfold into it.

Source: numpy.lib.format, version 1.0, as `savez` writes it, which stores and doesn't compress. NumPy's own reader takes
the header for a Python expression, and raises whatever its parser does.
"""

import io
import math
import re
import struct
import zipfile
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_MAGIC: Final = b"\x93NUMPY\x01\x00"
_HEADER: Final = re.compile(
    rb"\{'descr': '(\|[biu]1|<[iuf][248])', 'fortran_order': (True|False), 'shape': \(([\d, ]*)\), \} *\n"
)


def read_npz(data: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz file of plain numbers, not to be written to. Raises ValueError for any other."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            plain = all(entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1 for entry in entries)
            if not plain or sum(entry.file_size for entry in entries) > len(data):
                raise ValueError("an entry is larger than its file")
            return {entry.filename.removesuffix(".npy"): _read_array(archive.read(entry)) for entry in entries}
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, OverflowError, struct.error) as error:
        raise ValueError("it is no .npz file") from error


def _read_array(data: bytes) -> NDArray[Any]:
    start = len(_MAGIC) + 2 + int.from_bytes(data[len(_MAGIC) : len(_MAGIC) + 2], "little")
    header = _HEADER.fullmatch(data[len(_MAGIC) + 2 : start])
    if not data.startswith(_MAGIC) or header is None:
        raise ValueError("an array of something else than numbers")
    dtype = np.dtype(header[1].decode())
    shape = tuple(int(extent) for extent in header[3].split(b",") if extent.strip())
    if math.prod(shape) * dtype.itemsize != len(data) - start:
        raise ValueError("an array of another length than its shape")
    return np.frombuffer(data, dtype, offset=start).reshape(shape, order="F" if header[2] == b"True" else "C")
