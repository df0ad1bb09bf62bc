"""Pictures whose names aren't UTF-8, as a camera's computer of old may write them: used, and shown with escapes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from patchcore_engine.bank import MemoryBank
from patchcore_engine.bank_store import resolve
from patchcore_engine.datasets import evaluation_set
from patchcore_engine.evaluate import evaluate
from patchcore_engine.evaluation import write_json
from patchcore_engine.evaluation_report import evaluation_report
from patchcore_engine.fit import fit
from patchcore_engine.fit_job import fit_and_activate
from patchcore_engine.images import list_pictures
from patchcore_engine.inspector import Inspector
from patchcore_engine.path_text import path_text
from patchcore_engine.report_parts import write_report
from tests.engine import parts
from tests.engine.labelled_parts import write_category

# "Gehäuse" in Latin-1.
LATIN_1 = os.fsdecode(b"Geh\xe4use")
SHOWN = "Geh\\xe4use"


def rename_all(folder: Path) -> None:
    for path in list_pictures(folder):
        path.rename(path.with_name(f"{LATIN_1}_{path.name}"))


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A folder of 30 good parts and a broken picture."""
    folder = tmp_path / "good"
    parts.write_good_parts(folder)
    (folder / "broken.png").write_bytes(b"no picture")
    rename_all(folder)
    return folder.rename(folder.with_name(LATIN_1))


@pytest.mark.parametrize(
    ("name", "shown"), [(LATIN_1, SHOWN), ("Gehäuse.png", "Gehäuse.png"), ("a\\xe4", "a\\xe4"), (Path("a/b"), "a/b")]
)
def test_a_name_is_shown_as_it_is_but_for_bytes_that_are_no_text(name: str | Path, shown: str) -> None:
    assert path_text(name) == shown


def test_a_fit_keeps_and_shows_such_names_in_its_manifest_and_report(good: Path, tmp_path: Path) -> None:
    settings = parts.settings(skip_unreadable=True)
    fitted = fit_and_activate(list_pictures(good), parts.extractor(), settings, tmp_path / "banks")
    assert MemoryBank.load(fitted.path).manifest.skipped == (f"{SHOWN}_broken.png",)
    assert f"{SHOWN}_0" in fitted.report.read_text(encoding="utf-8")
    json.dumps(fitted.as_json()["skipped"], ensure_ascii=False).encode()


def test_an_evaluation_shows_such_names_in_its_report_and_figures(tmp_path: Path) -> None:
    home = write_category(tmp_path / "data")
    bank = fit(list_pictures(home / "train" / "good"), parts.extractor(), parts.settings()).bank
    (home / "test" / "good" / "broken.png").write_bytes(b"no picture")
    for folder in (home / "test" / "good", home / "test" / "blot"):
        rename_all(folder)
    for mask in list_pictures(home / "ground_truth" / "blot"):
        mask.rename(mask.with_name(f"{LATIN_1}_{mask.name}"))
    for kind in (home / "test" / "blot", home / "ground_truth" / "blot"):
        kind.rename(kind.with_name(LATIN_1))
    home.rename(home.with_name(LATIN_1))
    test_set = evaluation_set(tmp_path / "data", LATIN_1)
    found = evaluate(Inspector(parts.extractor(), bank), test_set, skip_unreadable=True)
    assert (found.category, len(found.pictures), len(found.skipped)) == (SHOWN, 14, 1)
    assert f"test/{SHOWN}/{SHOWN}_003.png" in [picture.path for picture in found.pictures]
    assert f"{SHOWN}_broken.png" in found.skipped[0]
    assert found.pixel_auroc is not None
    html = write_report(tmp_path, evaluation_report(found)).read_text(encoding="utf-8")
    assert f"test/good/{SHOWN}_00" in html
    write_json(tmp_path / "out.json", found.as_json())
    assert "\\ud" not in (tmp_path / "out.json").read_text(encoding="utf-8")


def test_the_commands_show_such_names_on_a_terminal(good: Path, tmp_path: Path) -> None:
    banks, heat = tmp_path / f"banks-{LATIN_1}", tmp_path / f"heat-{LATIN_1}"

    def patchline(*words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "daemon.cli", *map(str, words)]
        environment = {**os.environ, "COLUMNS": "200", "PYTHONIOENCODING": "utf-8"}
        return subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=False)

    options = ("--backbone", "sleeping", "--resize", "72", "--image-size", "64", "--coreset-ratio", "0.1")
    words = ("fit", "--good", good, "--recipe", "part", "--banks", banks, *options)
    refused = patchline(*words)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.splitlines()[-1].startswith(f"error: {path_text(good)}/{SHOWN}_broken.png: ")
    fitted = patchline(*words, "--skip-unreadable")
    assert fitted.returncode == 0, fitted.stderr
    assert resolve(banks / "part").name in fitted.stdout
    inspected = patchline("inspect", good, "--bank", banks / "part", "--output", heat)
    assert inspected.stderr.splitlines()[-1] == "error: 1 of 31 pictures couldn't be inspected."
    assert "not inspected" in inspected.stdout
    assert f"{SHOWN}_000.png" in inspected.stdout
    assert (heat / f"{LATIN_1}_000.png").is_file()
