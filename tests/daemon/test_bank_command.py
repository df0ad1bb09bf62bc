"""`patchline bank`, as a person runs it."""

import json
import shutil
from pathlib import Path

import pytest

from tests.daemon.conftest import fit_sleeping_bank
from tests.daemon.serving import patchline


@pytest.fixture(scope="module")
def two_versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A folder of banks whose recipe `caps` has two versions, the newer active."""
    folder = tmp_path_factory.mktemp("versions")
    old = fit_sleeping_bank(folder / "a", folder / "banks", "caps")
    new = fit_sleeping_bank(folder / "b", folder / "banks", "caps", seed=5)
    first, second = sorted((old, new))
    patchline("bank", "activate", "caps", second, "--banks", str(folder / "banks"))
    return folder / "banks", first, second


def test_list_marks_the_active_version(two_versions: tuple[Path, str, str]) -> None:
    banks, first, second = two_versions
    lines = patchline("bank", "list", "--banks", str(banks)).stdout.splitlines()
    assert [line.split() for line in lines[1:]] == [["caps", first], ["caps", second, "*"]]


def test_show_tells_what_a_bank_decides_by(two_versions: tuple[Path, str, str]) -> None:
    banks, first, second = two_versions
    shown = patchline("bank", "show", "caps", "--banks", str(banks)).stdout
    assert second in shown
    assert "fail threshold" in shown
    manifest = json.loads(patchline("bank", "show", "caps", first, "--banks", str(banks), "--json").stdout)
    assert manifest["recipe"] == "caps"


def test_verify_names_a_damaged_bank(two_versions: tuple[Path, str, str], tmp_path: Path) -> None:
    banks = tmp_path / "banks"
    shutil.copytree(two_versions[0], banks, symlinks=True)
    done = patchline("bank", "verify", "--banks", str(banks))
    assert done.returncode == 0
    assert done.stdout.count("ok ") == 2
    damaged = banks / "caps" / two_versions[1] / "calibration.npz"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    done = patchline("bank", "verify", "--banks", str(banks))
    assert done.returncode == 1
    assert f"damaged  caps/{two_versions[1]}: calibration.npz" in done.stdout


def test_rollback_goes_to_the_version_before_and_no_further(
    two_versions: tuple[Path, str, str], tmp_path: Path
) -> None:
    banks = tmp_path / "banks"
    shutil.copytree(two_versions[0], banks, symlinks=True)
    done = patchline("bank", "rollback", "caps", "--banks", str(banks))
    assert f"caps: {two_versions[1]} is active." in done.stdout
    assert "SIGHUP" in done.stdout
    done = patchline("bank", "rollback", "caps", "--banks", str(banks))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_an_empty_folder_says_how_to_make_a_bank(tmp_path: Path) -> None:
    done = patchline("bank", "list", "--banks", str(tmp_path))
    assert done.returncode == 1
    assert "patchline fit --banks" in done.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = patchline("--debug", "bank", "list", "--banks", str(tmp_path))
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "BankMissingError" in done.stderr
