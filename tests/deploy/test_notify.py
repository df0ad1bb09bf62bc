"""The daemon as systemd sees it: what it says on NOTIFY_SOCKET, here a socket of the test's."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon.config import Settings
from daemon.push_camera import PushCamera
from tests.deploy.sleeping_line import CAMERA, RECIPE, good_part, write_bank, write_config

PATIENCE_S = 60.0
WATCHDOG_S = 0.6


class Supervisor:
    """Plays systemd for one daemon."""

    def __init__(self, config: Path, state: Path) -> None:
        self.state = state
        self.heard: list[dict[str, str]] = []
        path = state / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        with (state / "log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "daemon.cli", "serve", "--config", str(config)],
                env={**os.environ, "NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))},
                stderr=log,
            )

    def hear(self, patience_s: float = PATIENCE_S) -> dict[str, str] | None:
        """Return the next message; None when none came in time."""
        self._socket.settimeout(patience_s)
        try:
            text = self._socket.recv(4096).decode()
        except TimeoutError:
            return None
        self.heard.append(dict(line.split("=", 1) for line in text.splitlines()))
        return self.heard[-1]

    def hear_until(self, key: str) -> dict[str, str]:
        """Return the next message that holds `key`."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and self.process.poll() is None:
            message = self.hear(1.0)
            if message is not None and key in message:
                return message
        raise AssertionError(f"{key} was never heard. Log:\n{self.log()}")

    def hear_what_was_sent(self) -> None:
        """Empty the socket."""
        while self.hear(0.001) is not None:
            pass

    def order(self) -> list[str]:
        """Return the states heard, without the watchdog's."""
        states = ("READY", "RELOADING", "STOPPING")
        return [state for message in self.heard for state in states if state in message]

    def log(self) -> str:
        return (self.state / "log").read_text()

    def page(self, name: str) -> int:
        """Return the HTTP status of one of the daemon's pages."""
        address = json.loads((self.state / "addresses.json").read_text())["telemetry"]
        try:
            with urllib.request.urlopen(f"http://{address}/{name}", timeout=10) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    def wait_until_unhealthy(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self.page("healthz") == 200:
            assert time.monotonic() < deadline, self.log()
            self.hear(0.1)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._socket.close()


@contextmanager
def supervised(folder: Path, *, bank: bool = True, **options: float) -> Iterator[Supervisor]:
    state = Path(tempfile.mkdtemp(dir=folder))
    if bank:
        write_bank(folder / "banks")
    supervisor = Supervisor(write_config(folder, state=state, **options), state)  # type: ignore[arg-type]
    try:
        yield supervisor
    finally:
        supervisor.close()


def test_systemd_hears_ready_reloading_and_stopping_in_their_order(tmp_path: Path) -> None:
    with supervised(tmp_path) as systemd:
        assert "recipe" in systemd.hear_until("READY")["STATUS"]
        assert systemd.page("readyz") == 200
        systemd.hear_until("WATCHDOG")
        write_bank(tmp_path / "banks", seed=1)
        before_us = time.monotonic_ns() // 1000
        systemd.process.send_signal(signal.SIGHUP)
        assert int(systemd.hear_until("RELOADING")["MONOTONIC_USEC"]) >= before_us
        systemd.hear_until("READY")
        systemd.process.send_signal(signal.SIGTERM)
        stopping = systemd.hear_until("STOPPING")
        for limit in ("WATCHDOG_USEC", "EXTEND_TIMEOUT_USEC"):
            assert int(stopping[limit]) > Settings().service.drain_s * 1e6
        assert systemd.process.wait(PATIENCE_S) == 0
        systemd.hear_what_was_sent()
        assert systemd.order() == ["READY", "RELOADING", "READY", "STOPPING"]


def test_a_reload_that_fails_ends_in_ready_with_its_cause(tmp_path: Path) -> None:
    with supervised(tmp_path) as systemd:
        systemd.hear_until("READY")
        (tmp_path / "banks" / RECIPE / "active").unlink()
        systemd.process.send_signal(signal.SIGHUP)
        systemd.hear_until("RELOADING")
        assert "the last reload failed" in systemd.hear_until("READY")["STATUS"]
        assert systemd.page("readyz") == 200


def test_a_daemon_that_cannot_start_never_says_ready(tmp_path: Path) -> None:
    with supervised(tmp_path) as systemd:
        systemd.hear_until("READY")
    (tmp_path / "banks" / RECIPE / "active").unlink()
    with supervised(tmp_path, bank=False) as systemd:
        assert systemd.process.wait(PATIENCE_S) == 1
        systemd.hear_what_was_sent()
        assert systemd.order() == []
        assert systemd.log().splitlines()[-1].startswith("error: recipes.part: ")
        assert "Traceback" not in systemd.log()


def test_the_watchdog_is_fed_while_nothing_waits(tmp_path: Path) -> None:
    with supervised(tmp_path) as systemd:
        systemd.hear_until("READY")
        for _ in range(5):
            assert systemd.hear(PATIENCE_S) == {"WATCHDOG": "1"}
        assert systemd.page("healthz") == 200


def test_the_watchdog_is_not_fed_while_the_engine_hangs(tmp_path: Path) -> None:
    with supervised(tmp_path, sleep_ms=5000, stuck_s=0.5) as systemd:
        systemd.hear_until("READY")
        with PushCamera(f"ipc://{systemd.state}/push", CAMERA) as camera:
            camera.send(good_part())
        systemd.wait_until_unhealthy()
        systemd.hear_what_was_sent()
        assert systemd.hear(3 * WATCHDOG_S) is None
        assert systemd.page("healthz") == 503
        # Once the engine comes back the daemon lives on; systemd would have ended it by now.
        systemd.hear_until("WATCHDOG")
        assert systemd.page("healthz") == 200


def test_a_hung_daemon_that_systemd_aborts_says_where_it_hung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")
    with supervised(tmp_path, sleep_ms=5000, stuck_s=0.5) as systemd:
        systemd.hear_until("READY")
        with PushCamera(f"ipc://{systemd.state}/push", CAMERA) as camera:
            camera.send(good_part())
        systemd.wait_until_unhealthy()
        systemd.process.send_signal(signal.SIGABRT)
        assert systemd.process.wait(PATIENCE_S) == -signal.SIGABRT
        assert "in embed" in systemd.log()


@pytest.mark.parametrize("address", ["", "/nonexistent/notify"])
def test_a_daemon_without_systemd_runs_all_the_same(tmp_path: Path, address: str) -> None:
    state = tmp_path / "state"
    state.mkdir()
    write_bank(tmp_path / "banks")
    config = write_config(tmp_path, state=state)
    process = subprocess.Popen(
        [sys.executable, "-m", "daemon.cli", "serve", "--config", str(config)],
        env={**os.environ, "NOTIFY_SOCKET": address},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        assert any('"event": "ready"' in line for line in process.stderr)
        process.terminate()
        process.stderr.read()
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
