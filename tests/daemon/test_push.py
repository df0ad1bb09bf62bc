from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from daemon.commands.push import push
from daemon.errors import ConfigError, NotRunningError
from daemon.outcomes import Outcome
from daemon.pushing import Pace
from patchcore_engine.errors import NoPicturesError
from patchcore_engine.images import encode_png
from tests.daemon.line import Line

app = typer.Typer()
app.command()(push)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=True)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for name in ("good/000.png", "good/001.png", "scratch/000.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encode_png(np.full((8, 8), len(name), np.uint8)))
    return folder


def test_a_folder_is_pushed_and_each_verdict_names_its_file(tmp_path: Path, pictures: Path) -> None:
    with Line(tmp_path) as line:
        result = run(str(pictures), "--camera", "left", "--part", "lot7/", "--address", line.push)
        line.journal.wait_for(lambda: len(line.journal.verdicts) == 3)

    assert result.exit_code == 0, result.output
    parts = [verdict.part for verdict in line.journal.verdicts]
    assert parts == ["lot7/good/000.png", "lot7/good/001.png", "lot7/scratch/000.png"]
    assert [verdict.seq for verdict in line.journal.verdicts] == [0, 1, 2]
    assert {verdict.camera for verdict in line.journal.verdicts} == {"left"}
    assert "3 frame(s) sent" in result.output


def test_raw_frames_carry_their_pixels(tmp_path: Path, pictures: Path) -> None:
    with Line(tmp_path) as line:
        run(str(pictures), "--encoding", "raw", "--count", "1", "--address", line.push)
        line.journal.wait_for(lambda: len(line.judge.received) == 1)
        header, payload, _reply = line.judge.received[0]

    assert header.shape == (8, 8)
    assert payload == bytes([len("good/000.png")]) * 64


def test_a_loop_goes_on_until_its_count(tmp_path: Path, pictures: Path) -> None:
    with Line(tmp_path) as line:
        run(str(pictures), "--loop", "--count", "7", "--rate", "500", "--address", line.push)
        line.journal.wait_for(lambda: len(line.journal.verdicts) == 7)

    assert [verdict.part for verdict in line.journal.verdicts][::3] == ["good/000.png"] * 3


def test_drawn_parts_are_pushed_until_the_count(tmp_path: Path) -> None:
    with Line(tmp_path, max_frame_bytes=2**24) as line:
        result = run("--simulate", "disc", "--count", "2", "--recipe", "flanges", "--address", line.push)
        line.journal.wait_for(lambda: len(line.judge.received) == 2)

    assert result.exit_code == 0, result.output
    headers = [header for header, _payload, _reply in line.judge.received]
    assert [header.part for header in headers] == ["disc-000000", "disc-000001"]
    assert {header.recipe for header in headers} == {"flanges"}


def test_acked_frames_are_told_as_acknowledged(tmp_path: Path, pictures: Path) -> None:
    with Line(tmp_path) as line:
        result = run(str(pictures), "--acked", "--loop", "--count", "100", "--address", line.acked)

        assert result.exit_code == 0, result.output
        assert "100 frame(s) sent" in result.output
        assert "100 acknowledged, 100 pass; 0 sent again" in result.output
        assert len(line.journal.verdicts) == 100


def test_more_frames_than_the_buffer_holds_survive_a_restart_of_the_daemon(tmp_path: Path, pictures: Path) -> None:
    with Line(tmp_path) as line:
        line.judge.holding = True
        line.crash()
        line.start()
        result = run(str(pictures), "--acked", "--loop", "--count", "150", "--address", line.acked)

        assert result.exit_code == 0, result.output
        assert [verdict.seq for verdict in line.journal.verdicts] == list(range(150))
        assert all(verdict.verdict is Outcome.PASS for verdict in line.journal.verdicts)


@pytest.mark.parametrize("door", ["plain", "acked"])
def test_without_a_daemon_push_says_so(tmp_path: Path, pictures: Path, door: str) -> None:
    arguments = ["--acked"] if door == "acked" else []
    address = f"ipc://{tmp_path}/nobody"

    result = run(str(pictures), "--loop", "--count", "100", "--timeout", "0.3", "--address", address, *arguments)

    assert isinstance(result.exception, NotRunningError)
    assert "unning?" in str(result.exception)


def test_a_daemon_that_refuses_every_frame_is_quoted(tmp_path: Path, pictures: Path) -> None:
    with Line(tmp_path) as line:
        line.judge.refusing = True
        result = run(str(pictures), "--acked", "--timeout", "1", "--address", line.acked)

    assert isinstance(result.exception, NotRunningError)
    assert 'refuses them with "the daemon can\'t take frames now"' in str(result.exception)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    assert isinstance(run(str(tmp_path), "--address", "ipc://x").exception, NoPicturesError)


def test_one_source_must_be_given(tmp_path: Path) -> None:
    result = run()

    assert result.exit_code == 2
    assert "give a folder of pictures" in result.output


def test_the_configuration_names_the_door(tmp_path: Path, pictures: Path) -> None:
    config = tmp_path / "config.toml"
    with Line(tmp_path) as line:
        config.write_text(f'[intake]\npush = "{line.push}"\nacked = ""\n')
        assert run(str(pictures), "--config", str(config)).exit_code == 0
        line.journal.wait_for(lambda: len(line.journal.verdicts) == 3)
        closed = run(str(pictures), "--acked", "--config", str(config))

    assert isinstance(closed.exception, ConfigError)
    assert "intake.acked" in str(closed.exception)


def test_a_port_that_the_system_chose_is_read_from_the_state_folder(tmp_path: Path, pictures: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[intake]\npush = "tcp://127.0.0.1:*"\n[service]\nstate_dir = "{tmp_path}"\n')

    stopped = run(str(pictures), "--config", str(config))
    assert isinstance(stopped.exception, NotRunningError)
    with Line(tmp_path) as line:
        (tmp_path / "addresses.json").write_text(f'{{"push": "{line.push}"}}')
        assert run(str(pictures), "--config", str(config)).exit_code == 0


def test_a_pace_makes_up_for_one_frame_at_most_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [0], []
    monkeypatch.setattr("daemon.pushing.time.monotonic_ns", lambda: now[0])

    def sleep(seconds: float) -> None:
        slept.append(round(seconds, 3))
        now[0] += int(seconds * 1e9)

    monkeypatch.setattr("daemon.pushing.time.sleep", sleep)
    pace = Pace(10)
    for _ in range(3):
        pace.wait()
    now[0] += int(5e9)
    for _ in range(3):
        pace.wait()

    assert slept == [0.1, 0.1, 0.1]
