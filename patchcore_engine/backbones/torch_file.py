"""PyTorch's weights files (`.pth`), read without PyTorch.

Two containers: the zip archive of PyTorch 1.6 and later (`NAME/data.pkl` and one `NAME/data/KEY` for each storage), and
the stream before it (magic number, protocol, system, table of tensors, keys of the storages, then for each an int64
length and its elements). Source: torch/serialization.py.
"""

import errno
import io
import struct
import zipfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.backbones.torch_pickle import MAX_PICKLE_BYTES, StorageReference, TensorReference, read_pickle
from patchcore_engine.errors import WeightsFormatError, WeightsMissingError

MAX_FILE_BYTES: Final = 4 * 1024**3
# Of a zip archive's list of entries: ten thousand storages and more.
MAX_DIRECTORY_BYTES: Final = 2 * 1024**2

_LEGACY_MAGIC: Final = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL: Final = 1001
_LITTLE: Final = b"little"


@dataclass(frozen=True, slots=True)
class TorchFile:
    """`tensors`: those that were asked for, as they are stored (views, not to be written to).

    `names`: of every tensor in the file.
    """

    tensors: dict[str, NDArray[Any]]
    names: tuple[str, ...]


class _GuardedReader(io.BufferedReader):
    """A file of which no more than `limit` bytes may be read at once; None: any number."""

    limit: int | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        if self.limit is None:
            return super().read(size)
        asked = self.limit + 1 if size is None or size < 0 else size
        data = super().read(min(asked, self.limit + 1))
        if asked > self.limit and len(data) > self.limit:
            raise WeightsFormatError("its zip archive holds too many entries.")
        return data


def read_torch_file(path: Path, names: Collection[str]) -> TorchFile:
    """Read those tensors of a `.pth` file that `names` asks for and the file holds.

    Nothing in the file is run, and no more memory is taken than the file is large. Raises WeightsFormatError for
    anything but a dictionary of tensors, WeightsMissingError where the file can't be opened.
    """
    try:
        with _GuardedReader(path.open("rb", buffering=0)) as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            return _read(file, size, names)
    except OSError as error:
        raise WeightsMissingError(f"{path} can't be read: {error.strerror}.") from error
    except WeightsFormatError as error:
        raise WeightsFormatError(f"{path} can't be used: {error}") from error


def _read(file: _GuardedReader, size: int, names: Collection[str]) -> TorchFile:
    if size > MAX_FILE_BYTES:
        raise WeightsFormatError(f"it is larger than {MAX_FILE_BYTES // 1024**3} GiB.")
    is_zip = file.read(4) == b"PK\x03\x04"
    file.seek(0)
    return _read_zip(file, size, names) if is_zip else _read_legacy(file, size, names)


def _read_zip(file: _GuardedReader, size: int, names: Collection[str]) -> TorchFile:
    try:
        with _open_zip(file) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            tables = [name for name in entries if name.endswith("/data.pkl")]
            # PyTorch stores, so that a compressed entry could only be there to unfold into something huge.
            if len(tables) != 1 or any(
                e.compress_type != zipfile.ZIP_STORED or e.flag_bits & 1 for e in entries.values()
            ):
                raise WeightsFormatError("it is a zip archive, but not one of PyTorch's.")
            root = tables[0].removesuffix("data.pkl")
            order = entries.get(f"{root}byteorder")
            if order is not None and (order.file_size != len(_LITTLE) or archive.read(order) != _LITTLE):
                raise WeightsFormatError("it was written on a big-endian machine.")
            if entries[tables[0]].file_size > MAX_PICKLE_BYTES:
                raise WeightsFormatError("its table of tensors is too large.")
            table = read_pickle(io.BytesIO(archive.read(tables[0])))
            wanted = _wanted(table, names)
            storages = {}
            for storage in _distinct(wanted.values(), size):
                entry = entries.get(f"{root}data/{storage.key}")
                if entry is None or entry.file_size != storage.nbytes:
                    raise WeightsFormatError(f"its stored data {storage.key} is missing or has another length.")
                storages[storage.key] = archive.read(entry)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, OverflowError, struct.error) as error:
        raise WeightsFormatError("its zip archive is damaged.") from error
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise WeightsFormatError("its zip archive is damaged.") from error  # it points before the file's beginning
    return _file(table, wanted, storages)


def _open_zip(file: _GuardedReader) -> zipfile.ZipFile:
    """zipfile reads the list of entries at once, whatever length the archive states, and keeps twenty times as much."""
    file.limit = MAX_DIRECTORY_BYTES
    archive = zipfile.ZipFile(file)
    file.limit = None
    return archive


def _read_legacy(file: IO[bytes], size: int, names: Collection[str]) -> TorchFile:
    if read_pickle(file) != _LEGACY_MAGIC or read_pickle(file) != _LEGACY_PROTOCOL:
        raise WeightsFormatError("it isn't a PyTorch weights file.")
    system = read_pickle(file)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise WeightsFormatError("it was written on a big-endian machine.")
    table = read_pickle(file)
    wanted = _wanted(table, names)
    needed = {storage.key: storage for storage in _distinct(wanted.values(), size)}
    itemsizes = {t.storage.key: t.storage.dtype.itemsize for t in table.values() if isinstance(t, TensorReference)}
    keys = read_pickle(file)
    if not isinstance(keys, list):
        raise WeightsFormatError("its list of stored data is damaged.")
    storages = {}
    for key in keys:
        length = int.from_bytes(file.read(8), "little", signed=True)
        if not isinstance(key, str) or key not in itemsizes or not 0 <= length * itemsizes[key] <= size - file.tell():
            raise WeightsFormatError("its stored data is damaged or cut off.")
        if key in needed:
            storages[key] = file.read(length * itemsizes[key])
        else:
            file.seek(length * itemsizes[key], io.SEEK_CUR)
    for storage in needed.values():
        if len(storages.get(storage.key, b"")) != storage.nbytes:
            raise WeightsFormatError(f"its stored data {storage.key} is missing or has another length.")
    return _file(table, wanted, storages)


def _file(table: dict[str, Any], wanted: dict[str, TensorReference], storages: dict[str, bytes]) -> TorchFile:
    tensors = {name: _view(tensor, storages[tensor.storage.key]) for name, tensor in wanted.items()}
    return TorchFile(tensors, tuple(name for name, value in table.items() if isinstance(value, TensorReference)))


def _wanted(table: Any, names: Collection[str]) -> dict[str, TensorReference]:
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table):
        raise WeightsFormatError("it isn't a dictionary of tensors.")
    return {name: table[name] for name in names if isinstance(table.get(name), TensorReference)}


def _distinct(tensors: Iterable[TensorReference], size: int) -> list[StorageReference]:
    storages = {tensor.storage for tensor in tensors}
    if len({storage.key for storage in storages}) != len(storages):
        raise WeightsFormatError("its tensors disagree about their stored data.")
    if sum(storage.nbytes for storage in storages) > size:
        raise WeightsFormatError("its tensors are larger than the file.")
    return list(storages)


def _view(tensor: TensorReference, data: bytes) -> NDArray[Any]:
    itemsize = tensor.storage.dtype.itemsize
    try:
        return np.ndarray(
            tensor.shape,
            tensor.storage.dtype,
            buffer=data,
            offset=tensor.offset * itemsize,
            strides=[stride * itemsize for stride in tensor.strides],
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise WeightsFormatError("a tensor reaches beyond its stored data.") from error
