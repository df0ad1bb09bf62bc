"""`.pth` files of both containers, and the pickles in them: tensors no larger than their file, or one short line."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from patchcore_engine.backbones.torch_file import read_torch_file
from patchcore_engine.backbones.torch_pickle import read_pickle
from patchcore_engine.errors import WeightsFormatError
from tests.engine.hostile_weights import PICKLES
from tests.engine.torch_files import dump, tensor, write_state
from tests.fuzz.scratch import scratch_folder

_FOLDER = scratch_folder()
_PATH = Path(_FOLDER.name) / "net.pth"
_STATE = {"a": np.arange(6, dtype="<f4").reshape(2, 3), "b": np.asarray(3, dtype="<i8")}
_SHORT = 2000


def seeds() -> Iterator[bytes]:
    for legacy in (False, True):
        write_state(_PATH, _STATE, legacy=legacy)
        yield _PATH.read_bytes()
    yield dump({"a": tensor("0", _STATE["a"])})
    yield from (pickle for pickle in PICKLES.values() if len(pickle) < _SHORT)


def one_input(data: bytes) -> None:
    _PATH.write_bytes(data)
    try:
        tensors = read_torch_file(_PATH, list(_STATE)).tensors
    except WeightsFormatError as error:
        told = str(error)
    else:
        told = ""
        assert all(array.nbytes <= len(data) for array in tensors.values())
    assert len(told) < 500
    with contextlib.suppress(WeightsFormatError):
        read_pickle(io.BytesIO(data))
