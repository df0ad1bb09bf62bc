import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patchcore_engine import bank_store
from patchcore_engine.bank import CALIBRATION, INDEX, MANIFEST, PREVIEW, MemoryBank
from patchcore_engine.errors import (
    BankDamagedError,
    BankError,
    BankMismatchError,
    BankMissingError,
    BankWriteError,
    PatchcoreError,
)
from patchcore_engine.fit import fit
from tests.engine import parts


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> MemoryBank:
    pictures = parts.write_good_parts(tmp_path_factory.mktemp("good"))
    return fit(pictures, parts.extractor(), parts.settings()).bank


@pytest.fixture
def saved(bank: MemoryBank, tmp_path: Path) -> Path:
    return bank_store.save(bank, tmp_path / "banks", "part")


def test_a_bank_comes_back_from_disk_as_it_was(bank: MemoryBank, saved: Path) -> None:
    loaded = MemoryBank.load(saved)
    np.testing.assert_array_equal(loaded.index.vectors, bank.index.vectors)
    np.testing.assert_array_equal(loaded.calibration_scores, bank.calibration_scores)
    np.testing.assert_array_equal(loaded.neighbours, bank.neighbours)
    assert loaded.manifest.thresholds == bank.manifest.thresholds
    assert loaded.version == saved.name
    assert saved.name.endswith(f"-{loaded.manifest.version_suffix}")


@pytest.mark.parametrize("name", [INDEX, CALIBRATION, PREVIEW])
def test_one_flipped_bit_in_any_file_is_refused(saved: Path, name: str) -> None:
    data = bytearray((saved / name).read_bytes())
    data[len(data) // 2] ^= 1
    (saved / name).write_bytes(data)
    with pytest.raises(BankDamagedError, match=name):
        MemoryBank.load(saved)


def test_an_edited_threshold_is_refused(saved: Path) -> None:
    manifest = json.loads((saved / MANIFEST).read_text())
    manifest["thresholds"]["fail"]["value"] *= 2
    (saved / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BankDamagedError, match="own digest"):
        MemoryBank.load(saved)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_manifest_never_loads(bank: MemoryBank, data: st.DataObject) -> None:
    files = bank.files()
    manifest = bytearray(files[MANIFEST])
    position = data.draw(st.integers(0, len(manifest) - 1))
    replacement = data.draw(st.integers(0, 255).filter(lambda value: value != manifest[position]))
    manifest[position] = replacement
    with pytest.raises(BankDamagedError):
        MemoryBank.from_files({**files, MANIFEST: bytes(manifest)}, "v")


def test_a_manifest_of_a_later_format_says_so(bank: MemoryBank) -> None:
    manifest = {**json.loads(bank.files()[MANIFEST]), "format": 3}
    with pytest.raises(BankDamagedError, match="format 3; this version reads format 2"):
        MemoryBank.from_files({**bank.files(), MANIFEST: json.dumps(manifest).encode()}, "v")


def test_a_missing_file_is_named(saved: Path) -> None:
    (saved / INDEX).unlink()
    with pytest.raises(BankDamagedError, match=INDEX):
        MemoryBank.load(saved)


def test_an_extractor_with_another_geometry_is_refused(bank: MemoryBank) -> None:
    with pytest.raises(BankMismatchError, match="image size 64, not 96"):
        bank.require(parts.extractor(image_size=96).identity)


SAVE_ON_A_SMALL_DISK = """
import resource, signal, sys
from pathlib import Path
from patchcore_engine import bank_store
from patchcore_engine.bank import MemoryBank
from patchcore_engine.errors import BankWriteError

bank = MemoryBank.load(Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    bank_store.save(bank, Path(sys.argv[2]), "part")
except BankWriteError as error:
    print(error)
"""


def test_a_write_that_fails_half_way_leaves_nothing(saved: Path, tmp_path: Path) -> None:
    banks = tmp_path / "small"
    banks.mkdir()
    command = [sys.executable, "-c", SAVE_ON_A_SMALL_DISK, str(saved), str(banks)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "can't be written" in told
    assert "File too large" in told
    assert list(banks.iterdir()) == []


def test_a_failed_write_leaves_the_versions_that_were_there(saved: Path) -> None:
    command = [sys.executable, "-c", SAVE_ON_A_SMALL_DISK, str(saved), str(saved.parent.parent)]
    assert "can't be written" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert list(saved.parent.iterdir()) == [saved]


def test_banks_where_a_file_lies_are_refused(bank: MemoryBank, tmp_path: Path) -> None:
    (tmp_path / "banks").write_text("a file where a folder should be")
    with pytest.raises(BankWriteError, match="can't be written"):
        bank_store.save(bank, tmp_path / "banks", "part")


def test_a_killed_fits_leftovers_are_swept_and_a_running_ones_stay(bank: MemoryBank, tmp_path: Path) -> None:
    home = tmp_path / "part"
    dead, alive = home / ".partial-999999999-x", home / ".partial-1-x"
    dead.mkdir(parents=True)
    alive.mkdir()
    bank_store.save(bank, tmp_path, "part")
    assert not dead.exists()
    assert alive.exists()


def second_version(saved: Path) -> Path:
    """Make another version by giving the folder a later name."""
    other = saved.with_name("29990101T000000Z-" + saved.name[-8:])
    other.mkdir()
    for file in saved.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    return other


def test_activate_and_rollback_move_the_link(saved: Path) -> None:
    banks, later = saved.parent.parent, second_version(saved)
    with pytest.raises(BankMissingError, match="no active version"):
        bank_store.resolve(saved.parent)
    bank_store.activate(banks, "part", saved.name)
    bank_store.activate(banks, "part", later.name)
    assert bank_store.resolve(saved.parent) == later
    assert [entry.active for entry in bank_store.list_versions(banks, "part")] == [False, True]
    bank_store.rollback(banks, "part")
    assert bank_store.resolve(saved.parent) == saved
    with pytest.raises(BankError, match="oldest"):
        bank_store.rollback(banks, "part")


def test_a_damaged_version_is_not_activated(saved: Path) -> None:
    later = second_version(saved)
    bank_store.activate(saved.parent.parent, "part", saved.name)
    (later / INDEX).write_bytes(b"")
    with pytest.raises(BankDamagedError):
        bank_store.activate(saved.parent.parent, "part", later.name)
    assert bank_store.resolve(saved.parent) == saved


@pytest.mark.parametrize("name", ["..", ".", "a/b", "", "active", ".hidden", "x" * 65])
def test_a_recipes_name_cannot_leave_its_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(BankError, match="no name for a recipe"):
        bank_store.list_versions(tmp_path, name)


def test_recipes_lists_those_with_a_version(saved: Path) -> None:
    (saved.parent.parent / "empty").mkdir()
    (saved.parent.parent / "not a recipe").mkdir()
    assert bank_store.recipes(saved.parent.parent) == ["part"]


def test_every_bank_error_is_one_of_the_engines(saved: Path) -> None:
    with pytest.raises(PatchcoreError):
        MemoryBank.load(saved.parent)


@pytest.mark.parametrize("link", ["../other/{version}", "{banks}/other/{version}", "..", ".", "absent", "/"])
def test_an_active_link_that_leaves_its_recipe_serves_nothing(bank: MemoryBank, saved: Path, link: str) -> None:
    banks = saved.parents[1]
    bank_store.save(bank, banks, "other")
    active = saved.parent / "active"
    active.symlink_to(link.format(version=saved.name, banks=banks))
    with pytest.raises(BankMissingError, match="no bank of this recipe"):
        bank_store.resolve(saved.parent)
    active.unlink()
    for mine in (saved.name, f"{saved.parent}/{saved.name}"):
        active.symlink_to(mine)
        assert bank_store.resolve(saved.parent) == saved
        active.unlink()


@pytest.mark.parametrize("name", ["..", "../part", "/etc", ".", "", "active", "part/..", "part\n"])
def test_no_recipe_s_name_leaves_the_folder_of_banks(bank: MemoryBank, saved: Path, name: str) -> None:
    banks = saved.parents[1]
    for call in (
        lambda: bank_store.activate(banks, name, saved.name),
        lambda: bank_store.rollback(banks, name),
        lambda: bank_store.save(bank, banks, name),
        lambda: bank_store.version_folder(banks, name, saved.name),
        lambda: bank_store.list_versions(banks, name),
    ):
        with pytest.raises(BankError, match="no name for a recipe"):
            call()


@pytest.mark.parametrize("version", ["..", "../part/{}", "{}/", "./{}", "active", "{}\n"])
def test_no_version_s_name_leaves_its_recipe(saved: Path, version: str) -> None:
    banks, version = saved.parents[1], version.format(saved.name)
    with pytest.raises(BankMissingError, match="no version"):
        bank_store.version_folder(banks, "part", version)
    with pytest.raises(BankMissingError, match="no version"):
        bank_store.activate(banks, "part", version)
    assert bank_store.version_folder(banks, "part", saved.name) == saved
