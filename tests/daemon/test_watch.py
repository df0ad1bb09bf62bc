import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
import zmq
from rich.console import Console
from typer.testing import CliRunner, Result

from daemon.commands.watch import watch
from daemon.errors import ArchiveError, NotRunningError
from daemon.heatmap_files import HeatmapFiles
from daemon.messages import Verdict
from daemon.outcomes import Outcome, Reason
from daemon.publisher import Publisher
from daemon.push_camera import PushCamera
from daemon.verdict_table import VerdictTable, verdict_line
from tests.daemon.heatmap_header import heatmap_header
from tests.daemon.line import PATIENCE_S, PNG, Line

app = typer.Typer()
app.command()(watch)


def verdict(seq: int = 0, **fields: object) -> Verdict:
    values: dict[str, object] = {
        "camera": "left",
        "stream": 1,
        "seq": seq,
        "offset": seq,
        "part": f"scratch/{seq:03}.png",
        "verdict": Outcome.FAIL,
        "score": 40.0,
        "p_value": 0.01,
        "review_threshold": 30.0,
        "fail_threshold": 32.0,
        "captured_ns": 0,
        "received_ns": 1_000_000,
        "published_ns": 26_000_000,
        **fields,
    }
    return Verdict(**values)  # type: ignore[arg-type]


def run(line: Line, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["--address", line.verdicts, "--replay", line.replay_address, *arguments])


def send(line: Line, count: int, camera: str = "left") -> None:
    with PushCamera(line.push, camera) as sender:
        for number in range(count):
            sender.send(PNG, part=f"p{number}")


def test_json_lines_hold_each_verdict_once_and_in_order(tmp_path: Path) -> None:
    with Line(tmp_path) as line:
        send(line, 5)
        result = run(line, "--json", "--from-offset", "0", "--count", "5")

    assert result.exit_code == 0, result.output
    lines = [json.loads(text) for text in result.stdout.splitlines()]
    assert [(entry["offset"], entry["seq"], entry["part"]) for entry in lines] == [(n, n, f"p{n}") for n in range(5)]
    assert {entry["verdict"] for entry in lines} == {"pass"}


def test_without_an_offset_only_later_verdicts_are_shown(tmp_path: Path) -> None:
    with Line(tmp_path) as line:
        send(line, 3)
        line.journal.wait_for(lambda: len(line.journal.verdicts) == 3)
        results: list[Result] = []
        watcher = threading.Thread(target=lambda: results.append(run(line, "--json", "--count", "2")))
        watcher.start()
        with PushCamera(line.push, "late") as sender:
            while watcher.is_alive():
                sender.send(PNG)
                watcher.join(0.02)

    offsets = [json.loads(text)["offset"] for text in results[0].stdout.splitlines()]
    assert len(offsets) == 2
    assert offsets[0] >= 3
    assert offsets[1] == offsets[0] + 1


def test_a_watch_that_falls_short_of_its_count_has_status_1(tmp_path: Path) -> None:
    with Line(tmp_path) as line:
        send(line, 2)
        result = run(line, "--from-offset", "0", "--count", "3", "--timeout", "0.5")

    assert result.exit_code == 1
    assert "p1" in result.output


def test_a_timeout_without_a_count_is_no_failure(tmp_path: Path) -> None:
    with Line(tmp_path) as line:
        assert run(line, "--timeout", "0.3").exit_code == 0


def test_only_the_named_cameras_are_shown(tmp_path: Path) -> None:
    with Line(tmp_path) as line:
        send(line, 2, camera="left")
        send(line, 2, camera="right")
        line.journal.wait_for(lambda: len(line.journal.verdicts) == 4)
        result = run(line, "--json", "--from-offset", "0", "--camera", "right", "--timeout", "0.5")

    assert [json.loads(text)["camera"] for text in result.stdout.splitlines()] == ["right", "right"]


def test_an_absent_daemon_is_told(tmp_path: Path) -> None:
    nobody = f"ipc://{tmp_path}/nobody"

    result = CliRunner().invoke(app, ["--address", nobody, "--replay", nobody, "--timeout", "0.2", "--count", "1"])

    assert result.exit_code == 1
    assert "Waiting for a daemon" in result.output


def test_a_replay_door_that_never_answers_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.verdict_stream.REPLAY_SILENT_S", 0.2)
    nobody = f"ipc://{tmp_path}/nobody"
    with Line(tmp_path) as line:
        results: list[Result] = []
        arguments = ["--address", line.verdicts, "--replay", nobody]
        watcher = threading.Thread(target=lambda: results.append(CliRunner().invoke(app, arguments)))
        watcher.start()
        with PushCamera(line.push, "left") as sender:
            while watcher.is_alive():
                sender.send(PNG)
                watcher.join(0.02)

    assert isinstance(results[0].exception, NotRunningError)
    assert nobody in str(results[0].exception)


@pytest.fixture
def publish(tmp_path: Path) -> "Callable[[list[Verdict]], Path]":
    """Publish heat maps of verdicts to a HeatmapFiles and return the folder once they are on disk."""

    def run(verdicts: list[Verdict]) -> Path:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        publisher = Publisher(context, f"ipc://{tmp_path}/verdicts")
        files = HeatmapFiles(f"ipc://{tmp_path}/verdicts", tmp_path / "maps")
        try:
            while not publisher.heatmaps_wanted:
                publisher.update()
            for one in verdicts:
                files.expect(one)
                publisher.publish(one, (heatmap_header(one, 1, 1), PNG + bytes([one.seq])))
            assert files.wait_for(len(verdicts), PATIENCE_S)
        finally:
            files.close()
            publisher.close()
            context.term()
        return tmp_path / "maps"

    return run


def test_heat_maps_are_named_after_camera_offset_and_part(publish: "Callable[[list[Verdict]], Path]") -> None:
    folder = publish([verdict(0), verdict(1, part=None), verdict(2, part="../../etc/passwd")])

    assert sorted(path.name for path in folder.iterdir()) == [
        "left-00000000-scratch_000.png",
        "left-00000001.png",
        "left-00000002-.._.._etc_passwd.png",
    ]
    assert (folder / "left-00000001.png").read_bytes() == PNG + b"\1"


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ArchiveError, match="can't be written"):
        HeatmapFiles(f"ipc://{tmp_path}/verdicts", tmp_path / "file" / "maps")


def test_a_line_tells_why_a_part_was_not_inspected() -> None:
    missing = verdict(7, verdict=Outcome.NOT_INSPECTED, reason=Reason.MISSING, count=3, score=None, part=None)

    assert verdict_line(missing).split() == ["left", "7", "-", "not_inspected", "missing", "x", "3"]


def test_a_line_tells_score_thresholds_and_latency() -> None:
    told = verdict_line(verdict(4))

    assert told.endswith("fail          score 40.000 (review 30.000 fail 32.000) p 0.010 25 ms")


def test_the_table_counts_every_part_of_a_gap() -> None:
    console = Console(record=True, width=150, force_terminal=True)
    with VerdictTable(console) as table:
        table.add(verdict(0))
        table.add(verdict(1, verdict=Outcome.NOT_INSPECTED, reason=Reason.MISSING, count=3, score=None))

    shown = console.export_text()
    assert "scratch/000.png" in shown
    assert "4 part(s)  0 pass  0 review  1 fail  3 not_inspected  (3 missing)" in shown
