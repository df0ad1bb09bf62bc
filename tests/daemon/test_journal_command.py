import csv
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from daemon.archive_folder import ArchivedPart, ArchiveFolder
from daemon.commands.journal import app, parse_time
from daemon.journal import Journal
from daemon.messages import FrameHeader, Region, Verdict
from daemon.outcomes import Outcome, Reason
from daemon.retention import Retention
from patchcore_engine.images import encode_png
from tests.daemon.journal_writer import verdict

DAY = 86_400 * 10**9
START_NS = int(datetime(2026, 5, 31).timestamp()) * 10**9
REJECTED = verdict(
    4711,
    part="4711",
    verdict=Outcome.FAIL,
    score=2.5,
    p_value=0.0125,
    trigger=99,
    received_ns=START_NS + DAY // 2,
    regions=(Region(x=120, y=44, width=34, height=20, area=512, peak=2.75, centroid=(137.0, 54.0)),),
)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A journal that its daemon holds open."""
    with Journal(tmp_path / "state" / "journal.sqlite") as journal:
        journal.append(
            [
                *(verdict(seq, received_ns=START_NS + seq * DAY, part=f"p{seq}") for seq in range(30)),
                verdict(30, stream=8, verdict=Outcome.NOT_INSPECTED, reason=Reason.MISSING, count=20, score=None),
                verdict(0, camera="right", stream=2**64 - 1, part="=1+1", recipe="pins", received_ns=START_NS),
                REJECTED,
            ]
        )
        yield journal


def run(journal: Journal, *arguments: str) -> Result:
    return CliRunner().invoke(app, [arguments[0], "--journal", str(journal.path), *arguments[1:]])


def exported(journal: Journal, *arguments: str) -> list[int]:
    result = run(journal, "export", *arguments)
    assert result.exit_code == 0, result.output
    return [json.loads(line)["offset"] for line in result.stdout.splitlines()]


def test_a_rejected_part_is_explained(journal: Journal, tmp_path: Path) -> None:
    archive = ArchiveFolder(tmp_path / "archive", Retention())
    header = FrameHeader(v=1, camera="left", seq=4711, captured_ns=1, encoding="png")
    picture = encode_png(np.zeros((4, 4), np.uint8))
    archive.write(ArchivedPart(verdict=REJECTED, header=header, payload=memoryview(picture), overlay=lambda: picture))
    result = run(journal, "query", "--part", "4711", "--archive", str(tmp_path / "archive"))
    text = " ".join(result.stdout.split())
    assert result.exit_code == 0
    for fact in (
        "part 4711: fail",
        "25% above the fail threshold",
        "2.5 (review from 1, fail from 2)",
        "0.0125",
        "34 x 20 px at x 120, y 44; area 512 px, peak 2.75 at (137, 54)",
        "left, seq 4711, stream 7",
        "trigger 99",
        "20260101T000000-0123abcd",
        "2026-05-31 12:00:00.000",
    ):
        assert fact in text
    assert "left-7-4711-fail-overlay.png" in "".join(result.stdout.split())


def test_a_missing_part_is_explained_by_its_gap(journal: Journal) -> None:
    result = run(journal, "query", "--stream", "8", "--seq", "42")
    text = " ".join(result.stdout.split())
    assert "camera left, seq 30 .. 49: not_inspected: missing" in text
    assert "never reached this host" in text


def test_many_verdicts_are_a_table_of_the_newest(journal: Journal) -> None:
    result = run(journal, "query", "--limit", "5", "--camera", "left", "--verdict", "pass")
    rows = [line for line in result.stdout.splitlines() if "pass" in line]
    assert [row.split()[3] for row in rows] == [str(seq) for seq in range(25, 30)]
    assert "newest 5 of more" in result.stderr


def test_nothing_found_is_said_by_the_status(journal: Journal) -> None:
    result = run(journal, "query", "--part", "none")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "No verdict matches." in result.stderr


@pytest.mark.parametrize(
    ("arguments", "offsets"),
    [
        (["--limit", "3"], [0, 1, 2]),
        (["--camera", "right"], [31]),
        (["--camera", "right", "--camera", "left", "--part", "=1+1"], [31]),
        (["--stream", str(2**64 - 1)], [31]),
        (["--verdict", "fail", "--verdict", "not_inspected"], [30, 32]),
        (["--reason", "missing"], [30]),
        (["--recipe", "pins"], [31]),
        (["--since", "2026-06-03", "--until", "2026-06-04"], [3, 4]),
        (["--since", "2026-05-31", "--until", "2026-05-31"], [0, 31, 32]),
        (["--since", "2026-05-31T12:00", "--until", "2026-05-31T12:00:01"], [32]),
        (["--until", "1970-01-02"], [30]),
        (["--part", "nobody"], []),
    ],
)
def test_what_is_asked_for_is_exported(journal: Journal, arguments: list[str], offsets: list[int]) -> None:
    assert exported(journal, *arguments) == offsets


def test_json_lines_hold_whole_verdicts(journal: Journal) -> None:
    result = run(journal, "export", "--part", "4711")
    (line,) = result.stdout.splitlines()
    assert Verdict.from_map(json.loads(line)).identity == REJECTED.identity
    assert json.loads(line)["regions"][0]["peak"] == 2.75


def test_csv_has_a_row_for_each_verdict(journal: Journal) -> None:
    result = run(journal, "export", "--format", "csv", "--camera", "right", "--verdict", "pass")
    (row,) = csv.DictReader(io.StringIO(result.stdout))
    assert (row["stream"], row["part"], row["reason"], row["regions"]) == (str(2**64 - 1), "=1+1", "", "[]")
    assert datetime.fromisoformat(row["received"]).timestamp() * 1e9 == START_NS
    assert row["wait_us"] == "0"


def test_a_files_name_says_its_format(journal: Journal, tmp_path: Path) -> None:
    output = tmp_path / "verdicts.csv"
    result = run(journal, "export", "--output", str(output))
    assert result.exit_code == 0
    assert "33 verdict(s) written" in result.stderr
    assert len(list(csv.DictReader(io.StringIO(output.read_text())))) == 33
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state", "verdicts.csv"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["query", "--since", "yesterday"], "'yesterday' is no time"),
        (["query", "--verdict", "good"], "'good' is not one of 'pass'"),
        (["query", "--seq", "-1"], "Invalid value for '--seq'"),
        (["export", "--format", "xml"], "neither csv nor jsonl"),
    ],
)
def test_a_wrong_question_is_answered_clearly(journal: Journal, arguments: list[str], message: str) -> None:
    result = run(journal, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())


def patchline(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "daemon.cli", "journal", *arguments]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_configuration_names_the_journal(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[service]\nstate_dir = "state"\n')
    assert len(patchline(tmp_path, "export").stdout.splitlines()) == 33
    elsewhere = patchline(tmp_path / "state", "export", "--config", str(tmp_path / "config.toml"))
    assert elsewhere.stderr == "error: There is no journal at state/journal.sqlite.\n"
    assert elsewhere.returncode == 1


def test_an_export_that_cant_be_written_is_one_line_of_error(journal: Journal, tmp_path: Path) -> None:
    told = patchline(tmp_path, "export", "--output", str(tmp_path / "none" / "a.csv"))
    assert told.returncode == 1
    assert told.stderr == f"error: The export {tmp_path}/none/a.csv can't be written: No such file or directory.\n"


def test_a_reader_that_has_enough_ends_an_export_quietly(journal: Journal, tmp_path: Path) -> None:
    journal.append([verdict(seq, stream=1) for seq in range(3000)])
    pipeline = f"{sys.executable} -m daemon.cli journal export --journal {journal.path} | head -n 1"
    told = subprocess.run(pipeline, shell=True, capture_output=True, text=True, check=True)  # noqa: S602
    assert json.loads(told.stdout)["offset"] == 0
    assert told.stderr == ""


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York"])
def test_a_time_without_a_zone_is_local(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    assert parse_time("2026-05-31T14:00") == int(datetime(2026, 5, 31, 14).timestamp()) * 10**9
    assert parse_time("2026-05-31T12:00Z") == parse_time("2026-05-31T14:00+02:00") == 1_780_228_800 * 10**9
    assert parse_time("2026-05-31", end_of_day=True) == parse_time("2026-06-01")
    monkeypatch.undo()
    time.tzset()


@given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.timezones()))
def test_every_time_is_read_to_the_microsecond(moment: datetime) -> None:
    epoch = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
    since = moment - epoch
    expected = (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000
    assert parse_time(moment.isoformat()) == expected
