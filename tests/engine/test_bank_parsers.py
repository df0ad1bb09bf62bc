"""The parsers of a bank's files under rubbish: a value or a BankDamagedError, in no more memory than the file holds."""

import contextlib
import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchcore_engine.bank import CALIBRATION, INDEX, MANIFEST, PARITY, MemoryBank
from patchcore_engine.errors import BankDamagedError
from patchcore_engine.fit import fit
from patchcore_engine.index import NearestNeighbours
from patchcore_engine.manifest import Manifest
from patchcore_engine.npz import read_npz
from patchcore_engine.parity_set import ParitySet
from tests.engine import parts
from tests.engine.damaged_banks import edit, seal

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    pictures = parts.write_good_parts(tmp_path_factory.mktemp("good"), count=12)
    return fit(pictures, parts.extractor(), parts.settings(coreset_ratio=0.02)).bank.files()


def damage(data: bytes, draw: Callable[[st.SearchStrategy[Any]], Any]) -> bytes:
    """Replace a few bytes, most of them near the ends, where the lengths are; perhaps cut."""
    changed = bytearray(data)
    near = st.integers(0, min(300, len(data) - 1))
    positions = st.one_of(near, near.map(lambda place: len(data) - 1 - place), st.integers(0, len(data) - 1))
    for position, value in draw(st.lists(st.tuples(positions, st.integers(0, 255)), min_size=1, max_size=4)):
        changed[position] = value
    return bytes(changed[: draw(st.sampled_from([len(data), len(data) - 1, len(data) // 2, 10]))])


@given(st.data())
def test_damaged_arrays_are_read_or_refused(files: dict[str, bytes], data: st.DataObject) -> None:
    damaged = damage(files[data.draw(st.sampled_from([CALIBRATION, PARITY]))], data.draw)
    with contextlib.suppress(ValueError):
        assert sum(array.nbytes for array in read_npz(damaged).values()) <= len(damaged)
    with contextlib.suppress(BankDamagedError):
        ParitySet.from_bytes(damaged, image_size=64, patches=64)


@given(st.data())
def test_a_damaged_index_is_a_flat_index_or_refused(files: dict[str, bytes], data: st.DataObject) -> None:
    damaged = damage(files[INDEX], data.draw)
    with contextlib.suppress(BankDamagedError):
        index = NearestNeighbours.deserialize(np.frombuffer(damaged, np.uint8))
        assert 4 * len(index) * index.dimension < len(damaged)


@given(JSON | st.dictionaries(st.sampled_from(list(Manifest.model_fields)), JSON))
def test_any_json_is_no_manifest(values: object) -> None:
    with pytest.raises(BankDamagedError) as caught:
        Manifest.parse(json.dumps(values).encode())
    assert len(str(caught.value)) < 500


@given(st.randoms(use_true_random=False))
def test_a_manifest_edited_and_sealed_anew_is_a_manifest_or_refused(files: dict[str, bytes], chance: Any) -> None:
    values = json.loads(files[MANIFEST])
    edit(values, chance)
    with contextlib.suppress(BankDamagedError):
        Manifest.parse(json.dumps(values).encode())


@pytest.mark.parametrize(
    "data",
    [b"[" * 100_000, b'{"format": ' + b"1" * 5000 + b"}", b'{"format": [' + b"1," * 5000 + b"1]}", b"\xff\xfe", b""],
    ids=["deep", "long number", "long list", "other encoding", "empty"],
)
def test_a_strange_manifest_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(BankDamagedError) as caught:
        Manifest.parse(data)
    assert len(str(caught.value)) < 200


def npz(**entries: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in entries.items():
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def npy(header: str, body: bytes = bytes(8)) -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (10**12,)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '|V8', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '|S0', 'fortran_order': False, 'shape': (1000000000000,)}",
        "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,)}",
        "-" * 100 + "1",
        "(" * 110,
        "__import__('os').system('exit')",
    ],
)
def test_an_array_whose_header_lies_is_refused(header: str) -> None:
    with pytest.raises(ValueError, match="an array of"):
        read_npz(npz(scores=npy(header)))


@pytest.mark.parametrize("kind", ["<f1", "|f1", "<b2", "|b8", "|i4"])
def test_a_bank_of_numbers_that_numpy_has_not_is_refused(files: dict[str, bytes], tmp_path: Path, kind: str) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    strange = npz(scores=npy(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': (8,), }}"))
    (tmp_path / CALIBRATION).write_bytes(strange)
    values = json.loads(files[MANIFEST])
    values["files"][CALIBRATION] = hashlib.sha256(strange).hexdigest()
    seal(tmp_path, values)
    with pytest.raises(BankDamagedError, match="The calibration file can't be read"):
        MemoryBank.load(tmp_path)


def test_an_array_that_would_unfold_is_refused() -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, scores=np.zeros(10**6))
    with pytest.raises(ValueError, match="larger than its file"):
        read_npz(buffer.getvalue())


def test_arrays_come_back_as_savez_wrote_them() -> None:
    buffer = io.BytesIO()
    written = {"a": np.arange(6.0).reshape(2, 3), "b": np.asfortranarray(np.eye(3, dtype=np.float32)), "c": np.int32(4)}
    np.savez(buffer, **written)  # type: ignore[arg-type]
    for name, array in read_npz(buffer.getvalue()).items():
        np.testing.assert_array_equal(array, written[name])
        assert array.dtype == written[name].dtype  # type: ignore[attr-defined]


def test_a_file_that_never_ends_is_not_read(files: dict[str, bytes], tmp_path: Path) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / INDEX).unlink()
    (tmp_path / INDEX).symlink_to("/dev/zero")
    with pytest.raises(BankDamagedError, match="no plain file"):
        MemoryBank.load(tmp_path)
