"""No damaged bank loads. `make fuzz` tries ten thousand, these a few of each kind."""

from pathlib import Path

import pytest

from patchcore_engine.bank import MANIFEST, MemoryBank
from patchcore_engine.errors import BankDamagedError
from tests.engine.damaged_banks import DAMAGES, refusals, two_banks


@pytest.fixture(scope="module")
def banks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return two_banks(tmp_path_factory.mktemp("banks"))


def test_no_damaged_bank_loads(banks: tuple[Path, Path]) -> None:
    refused, loaded = refusals(*banks, count=20 * len(DAMAGES), seed=1)
    assert loaded == []
    assert set(refused.values()) == {20}


def test_a_report_beside_the_bank_is_no_damage(banks: tuple[Path, Path]) -> None:
    report = banks[0] / "report.html"
    report.write_text("<html>")
    MemoryBank.load(banks[0])
    report.unlink()


def test_a_bank_by_a_link_to_its_folder_loads(banks: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "active").symlink_to(banks[0])
    assert MemoryBank.load(tmp_path / "active").version == banks[0].name


def test_a_version_under_another_name_says_what_name_it_had(banks: tuple[Path, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in banks[0].iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    with pytest.raises(BankDamagedError, match=f"a version's name ends in -{banks[0].name[-8:]} here"):
        MemoryBank.load(copy)


def test_a_bank_of_the_format_before_says_so(banks: tuple[Path, Path]) -> None:
    files = {file.name: file.read_bytes() for file in banks[0].iterdir()}
    files[MANIFEST] = files[MANIFEST].replace(b'"format": 2', b'"format": 1')
    with pytest.raises(BankDamagedError, match="format 1; this version reads format 2: fit the bank anew"):
        MemoryBank.from_files(files, "v")
