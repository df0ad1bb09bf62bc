"""`patchline demo` as a person or CI runs it: real processes, the real engine, drawn parts."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from daemon.journal_file import JOURNAL_FILE
from daemon.journal_reader import JournalReader

COMMAND = (sys.executable, "-m", "daemon.cli", "demo")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
TIMEOUT_S = 240


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENVIRONMENT,
    )


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    process = start(folder, *arguments)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, output


def left_behind(folder: Path) -> list[psutil.Process]:
    """Processes that work in `folder`, as everything that a demo there starts does."""
    return [process for process in psutil.process_iter(["cwd"]) if process.info["cwd"] == str(folder)]


def assert_scores_are_those_of_eval(made: Path) -> None:
    """What went through sockets, batches and the journal is what `eval` finds in the files."""
    arguments = ["--data", "data", "--category", "disc", "--bank", "banks/disc", "--json", "eval.json"]
    subprocess.run([*COMMAND[:-1], "eval", *arguments], cwd=made, env=ENVIRONMENT, check=True, capture_output=True)
    found = json.loads((made / "eval.json").read_text())["pictures"]
    expected = {picture["path"].removeprefix("test/"): picture["score"] for picture in found}
    with closing(JournalReader(made / "state" / JOURNAL_FILE)) as journal:
        judged = {verdict.part: verdict.score for verdict in journal.read(0, 1000)}
    assert judged == pytest.approx(expected, rel=1e-4)


def test_the_demo_judges_every_part_once_and_tells_good_from_defective(tmp_path: Path) -> None:
    status, output = run(tmp_path, "--train", "24", "--parts", "20", "--rate", "20")

    assert status == 0, output
    assert "Verdicts     one for each frame: 20 frame(s) sent, 20 verdict(s), 0 without, 0 too many" in output
    auroc = re.search(r"Image AUROC\s+(\d\.\d+)", output)
    assert auroc is not None
    assert float(auroc[1]) >= 0.95
    made = tmp_path / "demo-output" / "disc"
    assert len(list((made / "heatmaps").glob("station-1-*.png"))) == 20
    assert (made / "overview.png").is_file()
    assert_scores_are_those_of_eval(made)
    assert left_behind(tmp_path) == []


def test_the_line_that_is_killed_and_reloaded_accounts_for_every_part(tmp_path: Path) -> None:
    status, output = run(tmp_path, "--line", "--train", "20", "--parts", "24", "--rate", "6")

    assert status == 0, output
    assert "bank reload after" in output
    assert "kill -9 after" in output
    assert "Account balanced: 48 sent = 48 judged + 0 explicitly not inspected" in output
    assert "duplicates 0, out of order 0" in output
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGTERM, "Learning what good parts are"), (signal.SIGINT, " station-1 .* (pass|fail) ")],
    ids=["while it fits", "while it pushes"],
)
def test_an_interrupted_demo_leaves_no_process_behind(tmp_path: Path, number: signal.Signals, moment: str) -> None:
    process = start(tmp_path, "--train", "20", "--parts", "20", "--rate", "1")
    assert process.stdout is not None
    for line in process.stdout:
        if re.search(moment, f" {line}"):
            break
    assert len(left_behind(tmp_path)) >= 1
    process.send_signal(number)
    process.communicate(timeout=60)

    assert process.returncode not in (0, None)
    assert left_behind(tmp_path) == []
