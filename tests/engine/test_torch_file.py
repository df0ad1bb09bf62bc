"""PyTorch's weights files: honest ones are read, and no other harms."""

import os
import pickle
import random
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchcore_engine.backbones.torch_file import read_torch_file
from patchcore_engine.errors import WeightsFormatError, WeightsMissingError
from tests.engine.torch_files import LEGACY_MAGIC, call, dump, tensor, write_legacy, write_state, write_zip

A = np.arange(6, dtype="<f4").reshape(2, 3)
B = np.asarray(3, dtype="<i8")
C = np.asarray([0.5, -2], dtype="<f2")
STATE = {"a.weight": A, "b.count": B, "c": C}


@pytest.fixture(params=["zip", "legacy"])
def state_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "state.pth"
    write_state(path, STATE, legacy=request.param == "legacy")
    return path


def test_both_containers_give_the_tensors_that_are_asked_for(state_file: Path) -> None:
    file = read_torch_file(state_file, ["a.weight", "c", "absent"])
    assert file.names == tuple(STATE)
    assert set(file.tensors) == {"a.weight", "c"}
    np.testing.assert_array_equal(file.tensors["a.weight"], A)
    np.testing.assert_array_equal(file.tensors["c"], C)
    assert file.tensors["c"].dtype == np.float16


def test_a_transposed_view_of_a_shared_storage_is_read(tmp_path: Path) -> None:
    path = tmp_path / "views.pth"
    table = {"whole": tensor("0", A), "transposed": tensor("0", A, shape=(3, 2), strides=(1, 3))}
    table["last row"] = tensor("0", A, shape=(3,), strides=(1,), offset=3)
    write_zip(path, table, {"0": A.tobytes()})
    tensors = read_torch_file(path, table).tensors
    np.testing.assert_array_equal(tensors["transposed"], A.T)
    np.testing.assert_array_equal(tensors["last row"], A[1])


def test_a_state_dictionary_with_version_attributes_and_parameters_is_read(tmp_path: Path) -> None:
    path = tmp_path / "parameters.pth"
    parameter = call("torch._utils", "_rebuild_parameter", tensor("0", A), True, OrderedDict())
    write_zip(path, {"p": parameter}, {"0": A.tobytes()})
    np.testing.assert_array_equal(read_torch_file(path, ["p"]).tensors["p"], A)


@pytest.mark.parametrize("module", ["os", "posix", "builtins", "subprocess", "torch", "numpy", "collections"])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_hostile_pickle_runs_nothing(module: str, legacy: bool, tmp_path: Path) -> None:
    path, victim = tmp_path / "hostile.pth", tmp_path / "victim"
    victim.write_text("here")
    bait = call(module, {"builtins": "eval", "subprocess": "call"}.get(module, "unlink"), str(victim))
    if legacy:
        write_legacy(path, {"a": bait}, {})
    else:
        write_zip(path, {"a": bait}, {})
    with pytest.raises(WeightsFormatError, match="more than tensors"):
        read_torch_file(path, ["a"])
    assert victim.read_text() == "here"


class _Reduced:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("exit 1",)


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol_are_refused_when_they_call_something(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "calls.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", pickle.dumps({"a": _Reduced()}, protocol))
    with pytest.raises(WeightsFormatError):
        read_torch_file(path, ["a"])


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        ({"shape": (2, 4), "strides": (4, 1)}, "beyond its stored data"),
        ({"shape": (1000, 1000, 1000), "strides": (0, 0, 0)}, "beyond its stored data"),
        ({"shape": (2, 3), "strides": (3, 1), "offset": 1}, "beyond its stored data"),
        ({"shape": (2, 3), "strides": (3, -1)}, "well-formed"),
        ({"shape": (2, 3), "strides": (3,)}, "well-formed"),
        ({"shape": ("2", 3), "strides": (3, 1)}, "well-formed"),
    ],
)
def test_a_tensor_that_lies_about_its_shape_is_refused(lie: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "lie.pth"
    write_zip(path, {"a": tensor("0", A, **lie)}, {"0": A.tobytes()})
    with pytest.raises(WeightsFormatError, match=message):
        read_torch_file(path, ["a"])


def test_stored_data_of_another_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.pth"
    write_zip(path, {"a": tensor("0", A)}, {"0": A.tobytes()[:-4]})
    with pytest.raises(WeightsFormatError, match="another length"):
        read_torch_file(path, ["a"])


def test_a_compressed_archive_could_unfold_into_anything_and_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    zeros = np.zeros(1 << 20, "<f4")
    write_zip(path, {"a": tensor("0", zeros)}, {"0": zeros.tobytes()}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsFormatError, match="not one of PyTorch's"):
        read_torch_file(path, ["a"])


def test_a_big_endian_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "big.pth"
    write_legacy(path, {}, {}, little_endian=False)
    with pytest.raises(WeightsFormatError, match="big-endian"):
        read_torch_file(path, [])


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04", b"\x80\x02.", b"not a weights file", dump(LEGACY_MAGIC), b"<html></html>" * 100],
    ids=["empty", "zip head", "empty pickle", "text", "magic alone", "web page"],
)
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsFormatError, match=r"other\.pth can't be used"):
        read_torch_file(path, ["a"])


def test_a_list_of_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.pth"
    write_zip(path, [tensor("0", A)], {"0": A.tobytes()})
    with pytest.raises(WeightsFormatError, match="dictionary of tensors"):
        read_torch_file(path, ["a"])


def test_an_absent_file_is_said_to_be_absent(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissingError, match="No such file"):
        read_torch_file(tmp_path / "absent.pth", [])


def test_damage_anywhere_is_an_error_or_harmless(state_file: Path) -> None:
    whole = state_file.read_bytes()
    chance = random.Random(1)
    for _ in range(600):
        damaged = bytearray(whole)
        if chance.random() < 0.3:
            del damaged[chance.randrange(len(damaged)) :]
        else:
            for _ in range(chance.randint(1, 4)):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        state_file.write_bytes(damaged)
        try:
            tensors = read_torch_file(state_file, STATE).tensors
        except WeightsFormatError:
            continue
        assert all(array.nbytes <= len(whole) for array in tensors.values())
