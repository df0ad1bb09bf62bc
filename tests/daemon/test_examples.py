"""The examples, run as written, against a real daemon."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from patchcore_engine.images import encode_png
from tests.daemon.conftest import DaemonProcess, bad_part, good_part

TIMEOUT_S = 60


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """Two parts that must not be shipped beside each other: a good one and one with a blob."""
    (tmp_path / "good.png").write_bytes(encode_png(good_part(7)))
    (tmp_path / "bad.png").write_bytes(encode_png(bad_part(8)))
    return [str(tmp_path / "good.png"), str(tmp_path / "bad.png")]


def start(repository: Path, example: str, *arguments: str) -> "subprocess.Popen[str]":
    script = repository / "examples" / example
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(script), *arguments], cwd=repository, stdout=subprocess.PIPE, text=True
    )


def test_the_acked_camera_prints_the_verdict_of_each_part(
    repository: Path, start_daemon: Callable[..., DaemonProcess], pictures: list[str]
) -> None:
    daemon = start_daemon()
    camera = start(repository, "camera_acked.py", daemon.addresses["acked"], "cam1", *pictures)
    printed, _ = camera.communicate(timeout=TIMEOUT_S)
    assert (printed.split("\n"), camera.returncode) == (["good.png: pass", "bad.png: fail", ""], 0)


def test_the_line_controller_ships_what_passes_alone_and_goes_on_where_it_was(
    repository: Path, tmp_path: Path, start_daemon: Callable[..., DaemonProcess], pictures: list[str]
) -> None:
    daemon = start_daemon()
    position = tmp_path / "position.txt"
    doors = daemon.addresses["verdicts"], daemon.addresses["replay"], str(position)
    position.write_text("0")
    # The controller is started after the parts were pushed: it was down, and misses none.
    push(repository, daemon, [*pictures, pictures[0]])
    first = run_until(start(repository, "line_controller.py", *doors), 3)
    assert first == ["good.png: ship", "bad.png: EJECT (fail)", "good.png: ship"]
    # Killed after it printed a line, it may or may not have noted that: it acts on a part again rather than never.
    told = int(position.read_text())
    assert told in (2, 3)
    push(repository, daemon, [pictures[1]])
    second = run_until(start(repository, "line_controller.py", *doors), 4 - told)
    assert second == ["good.png: ship", "bad.png: EJECT (fail)"][told - 2 :]


def push(repository: Path, daemon: DaemonProcess, pictures: list[str]) -> None:
    camera = start(repository, "camera_push.py", daemon.addresses["push"], "cam1", *pictures)
    camera.communicate(timeout=TIMEOUT_S)
    assert camera.returncode == 0


def run_until(controller: "subprocess.Popen[str]", lines: int) -> list[str]:
    """Kill the controller when it has printed so many lines, and return them without camera and seq."""
    assert controller.stdout is not None
    printed = [controller.stdout.readline().split(" ", 2)[2].strip() for _ in range(lines)]
    controller.send_signal(signal.SIGKILL)
    controller.communicate(timeout=TIMEOUT_S)
    return printed
