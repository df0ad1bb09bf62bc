"""A fit that fails leaves the banks as they were, whatever it fails at."""

import subprocess
import sys
from pathlib import Path

import pytest

from patchcore_engine import bank_store
from patchcore_engine.bank import MemoryBank
from patchcore_engine.errors import BankWriteError, CalibrationError
from patchcore_engine.fit_job import FittedBank, fit_and_activate
from tests.engine import parts


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return parts.write_good_parts(tmp_path_factory.mktemp("good"))


@pytest.fixture
def first(good: list[Path], tmp_path: Path) -> FittedBank:
    """A bank in the folder `banks`, active."""
    return fit_and_activate(good, parts.extractor(), parts.settings(), tmp_path / "banks")


def everything_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_a_fit_leaves_an_active_bank_with_its_report_and_nothing_else(first: FittedBank) -> None:
    assert bank_store.resolve(first.path.parent) == first.path
    assert first.report == first.path / "report.html"
    assert first.path.name in first.report.read_text(encoding="utf-8")
    MemoryBank.load(first.path)
    assert sorted(path.name for path in first.path.parent.iterdir()) == sorted(["active", first.path.name])


FIT_ON_A_SMALL_DISK = """
import resource, sys
from pathlib import Path
from patchcore_engine.errors import BankWriteError
from patchcore_engine.fit_job import fit_and_activate
from patchcore_engine.images import list_pictures
from tests.engine import parts

# The disk takes no more than this of one file, as a full one would.
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    fit_and_activate(list_pictures(Path(sys.argv[1])), parts.extractor(), parts.settings(), Path(sys.argv[2]))
except BankWriteError as error:
    print(error)
"""


@pytest.mark.parametrize("folder", ["banks", "new/folder"])
def test_a_disk_that_has_room_for_the_bank_and_not_for_its_report_leaves_no_version(
    good: list[Path], first: FittedBank, tmp_path: Path, folder: str
) -> None:
    sizes = {file.name: file.stat().st_size for file in first.path.iterdir()}
    limit = max(size for name, size in sizes.items() if name != "report.html") + 1000
    assert sizes["report.html"] > limit
    before = everything_in(tmp_path)
    command = [sys.executable, "-c", FIT_ON_A_SMALL_DISK, str(good[0].parent), str(tmp_path / folder), str(limit)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert told.endswith(
        "can't be written to " + f"{tmp_path / folder / 'part'}: File too large. Nothing was left there.\n"
    )
    assert everything_in(tmp_path) == before


def test_a_bank_that_cant_be_made_active_is_taken_away_again(good: list[Path], tmp_path: Path) -> None:
    in_the_way = tmp_path / "part" / "active" / "file"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.touch()
    before = everything_in(tmp_path)
    with pytest.raises(BankWriteError, match="active can't be changed"):
        fit_and_activate(good, parts.extractor(), parts.settings(), tmp_path)
    assert everything_in(tmp_path) == before


def test_folders_made_for_a_fit_that_fails_are_taken_away_and_others_stay(good: list[Path], tmp_path: Path) -> None:
    for banks in (tmp_path / "new" / "deep" / "banks", tmp_path):
        with pytest.raises(CalibrationError):
            fit_and_activate(good[:3], parts.extractor(), parts.settings(), banks)
    assert everything_in(tmp_path) == []
    assert tmp_path.is_dir()


def test_an_active_version_is_not_discarded(first: FittedBank) -> None:
    bank_store.discard(first.path.parents[1], "part", first.path.name)
    MemoryBank.load(first.path)
