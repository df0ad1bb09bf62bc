"""sd_notify, spoken to a socket as systemd's."""

import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, str]]:
    """A socket such as NOTIFY_SOCKET names, and its name there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver, tempfile.TemporaryDirectory() as folder:
        receiver.settimeout(10)
        if request.param == "path":
            address = name = str(Path(folder) / "notify")
        else:
            name = f"@patchline-{os.getpid()}"
            address = "\0" + name[1:]
        receiver.bind(address)
        yield receiver, name


def test_ready_comes_with_a_status(systemd: tuple[socket.socket, str]) -> None:
    receiver, name = systemd
    Notifier({"NOTIFY_SOCKET": name}).ready("Serving 2 recipes")
    assert receiver.recv(4096) == b"READY=1\nSTATUS=Serving 2 recipes"


def test_a_status_of_several_lines_is_one_field(systemd: tuple[socket.socket, str]) -> None:
    receiver, name = systemd
    Notifier({"NOTIFY_SOCKET": name}).status("the last reload failed: first line\nSTOPPING=1")
    assert receiver.recv(4096) == b"STATUS=the last reload failed: first line STOPPING=1"


def test_reloading_states_the_monotonic_clock(systemd: tuple[socket.socket, str]) -> None:
    receiver, name = systemd
    before = time.monotonic_ns() // 1000
    Notifier({"NOTIFY_SOCKET": name}).reloading()
    fields = dict(line.split("=", 1) for line in receiver.recv(4096).decode().splitlines())
    assert fields["RELOADING"] == "1"
    assert before <= int(fields["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000


def test_the_watchdog_and_stopping_are_told(systemd: tuple[socket.socket, str]) -> None:
    receiver, name = systemd
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.alive()
    notifier.stopping()
    assert receiver.recv(4096) == b"WATCHDOG=1"
    assert receiver.recv(4096).startswith(b"STOPPING=1\n")


def test_without_systemd_nothing_happens() -> None:
    notifier = Notifier({})
    notifier.ready("nobody listens")
    assert notifier.watchdog_s is None


def test_a_systemd_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).alive()


def test_the_watchdogs_period_is_read_when_it_is_meant_for_this_process() -> None:
    assert Notifier({"WATCHDOG_USEC": "3000000"}).watchdog_s == 3.0
    assert Notifier({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}).watchdog_s == 3.0
    assert Notifier({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}).watchdog_s is None
