"""Writes PyTorch's weights files without PyTorch: honest ones in both containers, and the pickles inside them."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {"<f4": "FloatStorage", "<f8": "DoubleStorage", "<f2": "HalfStorage", "<i8": "LongStorage"}


class _Name:
    """Pickled as the global `module.name`, whatever that is."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class _Storage:
    def __init__(self, key: str, array: NDArray[Any]) -> None:
        self.key, self.array = key, array


class _Call:
    """Pickled as `function(*arguments)`."""

    def __init__(self, function: _Name, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments


# Its methods are missing from typeshed.
_PurePickler: Any = pickle._Pickler


class _Pickler(_PurePickler):  # type: ignore[misc]
    """The pure Python pickler, taught to write names without importing what they name."""

    def __init__(self, file: io.BytesIO, *, legacy: bool) -> None:
        super().__init__(file, protocol=2)
        self.legacy = legacy

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, _Name):
            self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, _Call):
            self.save(obj.function)
            self.save(obj.arguments)
            self.write(b"R")
        elif isinstance(obj, _Storage):
            kind = _Name("torch", STORAGES[obj.array.dtype.str])
            rest = (None,) if self.legacy else ()
            self.save(("storage", kind, obj.key, "cpu", obj.array.size, *rest))
            self.write(b"Q")
        else:
            super().save(obj, save_persistent_id)


def call(module: str, name: str, *arguments: Any) -> Any:
    """An object whose unpickling calls `module.name(*arguments)`."""
    return _Call(_Name(module, name), *arguments)


def tensor(key: str, array: NDArray[Any], *, shape: Any = None, strides: Any = None, offset: int = 0) -> Any:
    """A tensor as torch.save writes it; shape and strides may lie."""
    plain = tuple(step // array.itemsize for step in array.strides)
    return call(
        "torch._utils",
        "_rebuild_tensor_v2",
        _Storage(key, array),
        offset,
        array.shape if shape is None else shape,
        plain if strides is None else strides,
        False,
        OrderedDict(),
    )


def dump(value: Any, *, legacy: bool = False) -> bytes:
    """The pickle of `value`."""
    file = io.BytesIO()
    _Pickler(file, legacy=legacy).dump(value)
    return file.getvalue()


def write_zip(path: Path, table: Any, storages: Mapping[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> None:
    """Write the container of PyTorch 1.6 and later."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("model/data.pkl", dump(table))
        archive.writestr("model/byteorder", "little")
        for key, data in storages.items():
            archive.writestr(f"model/data/{key}", data)
        archive.writestr("model/version", "3\n")


def write_legacy(path: Path, table: Any, storages: Mapping[str, NDArray[Any]], *, little_endian: bool = True) -> None:
    """Write the container before PyTorch 1.6."""
    with path.open("wb") as file:
        for value in (LEGACY_MAGIC, 1001, {"protocol_version": 1001, "little_endian": little_endian, "type_sizes": {}}):
            file.write(dump(value))
        file.write(dump(table, legacy=True))
        file.write(dump(list(storages)))
        for array in storages.values():
            file.write(struct.pack("<q", array.size) + array.tobytes())


def write_state(path: Path, tensors: Mapping[str, NDArray[Any]], *, legacy: bool = False) -> None:
    """Write an honest weights file of `tensors`."""
    arrays = {str(index): np.ascontiguousarray(array) for index, array in enumerate(tensors.values())}
    table = OrderedDict((name, tensor(key, arrays[key])) for name, key in zip(tensors, arrays, strict=True))
    if legacy:
        write_legacy(path, table, arrays)
    else:
        write_zip(path, table, {key: array.tobytes() for key, array in arrays.items()})
