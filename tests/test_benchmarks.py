"""The benchmarks' own arithmetic, and the command that runs them. Nothing is timed here."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.figures import as_json, compared, in_turns
from tests.benchmarks.pipeline import perfect_latency

ROOT = Path(__file__).resolve().parents[1]


def patchline(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from daemon.cli import main; main()", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_contestants_take_turns_and_the_first_turn_does_not_count() -> None:
    order: list[str] = []

    def contestant(name: str) -> float:
        order.append(name)
        return float(len(order))

    values = in_turns({"a": lambda: contestant("a"), "b": lambda: contestant("b")}, rounds=2)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert values == {"a": [3, 5], "b": [4, 6]}


def test_ratios_are_taken_pair_by_pair() -> None:
    ours, theirs = compared("x", "ms", {"ours": [1, 20, 3], "theirs": [2, 40, 3]}, "theirs")
    assert (ours.ratio_to_baseline, theirs.ratio_to_baseline) == (0.5, 1)
    assert (ours.n, ours.median, ours.min, ours.max) == (3, 3, 1, 20)
    assert json.loads(json.dumps(as_json({}, [ours])))["rows"][0]["baseline"] == "theirs"


def test_a_perfect_server_begins_a_batch_with_whatever_has_arrived() -> None:
    batch_ms = {1: 5.0, 2: 6.0}
    # The first is alone; the next two come while it is judged and go together; the fourth waits for them.
    assert perfect_latency([0.0, 1.0, 2.0, 3.0], batch_ms) == [5.0, 10.0, 9.0, 13.0]
    assert perfect_latency([3.0, 0.0, 2.0, 1.0], batch_ms) == [13.0, 5.0, 9.0, 10.0]
    assert perfect_latency([0.0, 100.0], batch_ms) == [5.0, 5.0]


def test_benchmarks_without_a_source_checkout_say_where_they_are(tmp_path: Path) -> None:
    for package in ("daemon", "patchcore_engine"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    done = patchline("bench", "journal", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: The benchmark journal is part of the source")
    assert "make bench" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_unknown_benchmark_is_refused_with_the_names_that_there_are() -> None:
    done = patchline("bench", "everything", folder=ROOT)
    assert done.returncode == 2
    assert "coreset" in done.stderr


@pytest.mark.parametrize("name", ["backbone", "coreset", "search", "pipeline", "keys", "ready", "scale", "journal"])
def test_each_benchmark_is_there(name: str) -> None:
    assert (ROOT / "tests" / "benchmarks" / f"{name}.py").is_file()
