"""`patchline fit`, `eval` and `inspect` from end to end, with the extractor that only sleeps."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from daemon.commands.eval_ import eval_
from daemon.commands.fit import fit, parse_size
from daemon.commands.inspect import inspect
from patchcore_engine.bank import MemoryBank
from patchcore_engine.bank_store import list_versions, resolve
from patchcore_engine.errors import BankError, BankMissingError, CalibrationError, DataError, NoPicturesError
from patchcore_engine.images import read
from tests.engine import parts
from tests.engine.labelled_parts import CATEGORY, write_category

FIT = ("fit", "--backbone", "sleeping", "--resize", "72", "--image-size", "64", "--coreset-ratio", "0.1")

app = typer.Typer()
app.command("fit")(fit)
app.command("eval")(eval_)
app.command("inspect")(inspect)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def succeed(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_category(folder)
    return folder


@pytest.fixture(scope="module")
def banks(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("banks")
    succeed(*FIT, "--data", data, "--category", CATEGORY, "--banks", folder)
    return folder


def test_fit_activates_a_bank_named_like_its_category_and_leaves_a_report(data: Path, tmp_path: Path) -> None:
    shown = succeed(*FIT, "--data", data, "--category", CATEGORY, "--banks", tmp_path)
    folder = resolve(tmp_path / CATEGORY)
    bank = MemoryBank.load(folder)
    assert bank.manifest.pictures == 30
    assert bank.manifest.geometry == parts.GEOMETRY
    assert "30" in shown
    assert folder.name in shown
    assert "review threshold" in shown
    assert_self_contained((folder / "report.html").read_text())


def test_fit_learns_a_plain_folder_and_names_the_bank_after_it(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / CATEGORY / "train" / "good", tmp_path / "hinges")
    found = json.loads(succeed(*FIT, "--good", tmp_path / "hinges", "--banks", tmp_path / "banks", "--json"))
    assert found["recipe"] == "hinges"
    assert Path(found["bank"]) == resolve(tmp_path / "banks" / "hinges").parent / found["version"]
    assert found["pictures"] == 30
    assert Path(found["report"]).is_file()
    assert found["thresholds"]["fail"]["rate"] == 0.001


def test_fit_takes_the_recipes_name_rates_and_modes_from_its_options(data: Path, tmp_path: Path) -> None:
    succeed(
        *(*FIT, "--good", data / CATEGORY / "train" / "good", "--banks", tmp_path, "--recipe", "left-hinge"),
        *("--fail-rate", "0.05", "--review-rate", "0.2", "--no-reweight", "--score-mode", "modelzoo"),
        *("--seed", "3", "--memory-limit", "1G"),
    )
    manifest = MemoryBank.load(resolve(tmp_path / "left-hinge")).manifest
    assert (manifest.thresholds.fail.rate, manifest.thresholds.review.rate) == (0.05, 0.2)
    assert (manifest.reweight, manifest.score_mode, manifest.seed) == (False, "modelzoo", 3)


def test_fit_all_goes_on_past_a_broken_category_and_says_so(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "empty" / "train" / "good").mkdir(parents=True)
    result = run(*FIT, "--data", tmp_path / "data", "--all", "--banks", tmp_path / "banks")
    assert isinstance(result.exception, DataError)
    assert "1 of 2 categories failed: empty" in str(result.exception)
    assert re.search(r"empty: .*holds no pictures", result.stderr)
    assert len(list_versions(tmp_path / "banks", CATEGORY)) == 1


def test_fit_skips_unreadable_pictures_on_request_and_counts_them(data: Path, tmp_path: Path) -> None:
    good = tmp_path / "good"
    shutil.copytree(data / CATEGORY / "train" / "good", good)
    (good / "007.png").write_bytes(b"no picture")
    refused = run(*FIT, "--good", good, "--banks", tmp_path / "banks")
    assert isinstance(refused.exception, DataError)
    assert "007.png" in str(refused.exception)
    assert "1 unreadable skipped" in succeed(*FIT, "--good", good, "--banks", tmp_path / "banks", "--skip-unreadable")


def test_fit_of_too_few_parts_says_how_many_are_needed_and_leaves_no_bank(data: Path, tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    shutil.copy(data / CATEGORY / "train" / "good" / "000.png", tmp_path / "good")
    result = run(*FIT, "--good", tmp_path / "good", "--banks", tmp_path / "banks")
    assert isinstance(result.exception, CalibrationError)
    assert "at least 10 are needed" in str(result.exception)
    assert not list_versions(tmp_path / "banks", "good")


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--data", "d"),
        ("--data", "d", "--good", "g"),
        ("--data", "d", "--category", "c", "--all"),
        ("--data", "d", "--all", "--recipe", "r"),
        ("--good", "g", "--memory-limit", "lots"),
        ("--good", "g", "--index", "hnsw"),
        ("--good", "g", "--seed", "4294967296"),
    ],
)
def test_fit_refuses_options_that_contradict_or_mean_nothing(options: tuple[str, ...], tmp_path: Path) -> None:
    assert run(*FIT, *options, "--banks", tmp_path).exit_code == 2


def test_fit_refuses_a_recipe_name_that_is_no_folder_name_before_it_reads_a_picture(tmp_path: Path) -> None:
    result = run(*FIT, "--good", tmp_path, "--recipe", "../elsewhere", "--banks", tmp_path / "banks")
    assert isinstance(result.exception, BankError)
    assert "no name for a recipe" in str(result.exception)


@pytest.mark.parametrize(
    ("text", "size"), [("1000", 1000), ("500M", 500 * 2**20), ("4 GiB", 4 * 2**30), ("1.5g", 3 * 2**29), ("2KB", 2048)]
)
def test_sizes_are_read_with_their_units(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_eval_shows_figures_beside_published_ones_and_writes_json_and_report(
    data: Path, banks: Path, tmp_path: Path
) -> None:
    figures = tmp_path / "figures.csv"
    figures.write_text(f"# ours: Last year's line\ncategory,ours_image_auroc,ours_pixel_auroc\n{CATEGORY},0.91,0.87\n")
    shown = succeed(
        *("eval", "--data", data, "--category", CATEGORY, "--bank", banks / CATEGORY, "--compare", figures),
        *("--json", tmp_path / "out.json", "--report", tmp_path / "report"),
    )
    for text in ("image AUROC", "Last year's line", "0.9100", "good parts that fail", "stated", "95 % interval"):
        assert text in shown
    out = json.loads((tmp_path / "out.json").read_text())
    assert out["image_auroc"] > 0.95
    assert len(out["pictures"]) == 14
    html = (tmp_path / "report" / "report.html").read_text()
    assert_self_contained(html)
    assert "Last year&#x27;s line" in html


def test_eval_takes_a_versions_folder_too(data: Path, banks: Path, tmp_path: Path) -> None:
    version = resolve(banks / CATEGORY).resolve()
    succeed("eval", "--data", data, "--category", CATEGORY, "--bank", version, "--report", tmp_path)
    assert version.name in (tmp_path / "report.html").read_text()


def test_eval_all_walks_the_categories_past_a_broken_one(data: Path, banks: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    shutil.copytree(data / CATEGORY, tmp_path / "data" / "unknown")
    result = run(
        *("eval", "--data", tmp_path / "data", "--all", "--banks", banks),
        *("--json", tmp_path / "out.json", "--report", tmp_path / "reports"),
    )
    assert isinstance(result.exception, DataError)
    assert "1 of 2 categories failed: unknown" in str(result.exception)
    assert re.search(r"unknown: .*holds no memory bank", result.stderr)
    out = json.loads((tmp_path / "out.json").read_text())
    assert out["image_auroc"] == out["categories"][0]["image_auroc"]
    assert list(out["failed"]) == ["unknown"]
    assert (tmp_path / "reports" / CATEGORY / "report.html").is_file()


def test_eval_of_a_missing_bank_says_how_to_make_one(data: Path, tmp_path: Path) -> None:
    result = run("eval", "--data", data, "--category", CATEGORY, "--bank", tmp_path / "none", "--report", tmp_path)
    assert isinstance(result.exception, BankMissingError)
    assert "patchline fit" in str(result.exception)


def test_inspect_shows_a_verdict_for_each_picture_and_writes_overlays(data: Path, banks: Path, tmp_path: Path) -> None:
    test = data / CATEGORY / "test"
    lines = succeed(
        *("inspect", test / "good", test / "blot" / "000.png", "--bank", banks / CATEGORY),
        *("--output", tmp_path / "heat", "--json"),
    ).splitlines()
    found = [json.loads(line) for line in lines]
    assert [f["verdict"] for f in found[:8]].count("fail") == 0
    assert found[8]["verdict"] == "fail"
    # The blot lies at x 40..60, y 30..44.
    region = found[8]["regions"][0]
    assert region["x"] <= 50 <= region["x"] + region["width"]
    assert region["y"] <= 37 <= region["y"] + region["height"]
    # Its name is taken by the good part 000.png.
    assert Path(found[8]["overlay"]).name == "blot-000.png"
    shown = read(Path(found[8]["overlay"]))
    assert shown.shape == (80, 100, 3)
    assert not np.array_equal(shown, read(test / "blot" / "000.png"))


def test_inspect_refuses_the_pictures_own_folder_for_heat_maps_before_it_loads_the_bank(
    data: Path, tmp_path: Path
) -> None:
    test = data / CATEGORY / "test" / "good"
    before = [path.read_bytes() for path in sorted(test.iterdir())]
    result = run("inspect", test, "--bank", tmp_path / "absent", "--output", test)
    assert isinstance(result.exception, DataError)
    assert "name another folder for the heat maps" in str(result.exception)
    assert [path.read_bytes() for path in sorted(test.iterdir())] == before


def test_inspect_names_an_unreadable_picture_and_judges_the_others(data: Path, banks: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    result = run("inspect", broken, data / CATEGORY / "test" / "blot" / "001.png", "--bank", banks / CATEGORY)
    assert isinstance(result.exception, DataError)
    assert "1 of 2 pictures couldn't be inspected" in str(result.exception)
    assert "not inspected" in result.stdout
    assert "fail" in result.stdout


def test_inspect_of_an_empty_folder_is_refused(banks: Path, tmp_path: Path) -> None:
    result = run("inspect", tmp_path, "--bank", banks / CATEGORY)
    assert isinstance(result.exception, NoPicturesError)


def assert_self_contained(html: str) -> None:
    """Nothing is loaded from elsewhere: every source is data within the file."""
    assert html.startswith("<!doctype html>")
    assert "<svg" in html
    assert all(source.startswith("data:image/") for source in re.findall(r'src="([^"]*)"', html))
    assert not re.findall(r"<link|<script|@import|url\((?!#)", html)
