"""The life of a real daemon process: reload, drain, systemd, a failing disk, a dying thread."""

import json
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import zmq
from prometheus_client import CollectorRegistry

from daemon.messages import Verdict
from daemon.outcomes import Outcome, Reason
from daemon.push_camera import PushCamera
from daemon.sender import FrameSender
from daemon.service import Service
from daemon.telemetry import Telemetry
from patchcore_engine.errors import BankMissingError
from tests.daemon.conftest import DaemonProcess, fit_sleeping_bank, good_part, write_config
from tests.daemon.serving import Start, journalled, metric, page, patchline, until, verdicts_of


def test_the_state_folder_tells_where_the_daemon_is(start_daemon: Start, tmp_path: Path) -> None:
    daemon = start_daemon()
    state = tmp_path / "daemon" / "state"
    assert json.loads((state / "addresses.json").read_text()) == daemon.addresses
    assert int((state / "daemon.pid").read_text()) == daemon.pid
    assert daemon.stop() == 0
    assert not (state / "addresses.json").exists()


def test_sigterm_finishes_what_waits(start_daemon: Start) -> None:
    daemon = start_daemon("[engine]\nsleep_ms = 20\n")
    with PushCamera(daemon.addresses["push"], "cam1") as camera:
        for number in range(50):
            camera.send(good_part(number))
        verdicts_of(daemon, 1)
        assert daemon.stop() == 0
    stopped = next(entry for entry in daemon.log if entry["event"] == "stopped")
    assert stopped["shutting_down"] == 0
    assert [verdict.reason for verdict in journalled(daemon)] == [None] * 50


def test_what_cant_be_finished_in_time_is_journalled_as_shutting_down(start_daemon: Start) -> None:
    daemon = start_daemon("[engine]\nsleep_ms = 1000\nbatch_sizes = [1]\n[service]\ndrain_s = 0.5\n")
    with PushCamera(daemon.addresses["push"], "cam1") as camera:
        for number in range(10):
            camera.send(good_part(number))
        verdicts_of(daemon, 1)
        assert daemon.stop() == 0
    verdicts = journalled(daemon)
    assert [verdict.seq - verdicts[0].seq for verdict in verdicts] == list(range(10))
    assert verdicts[0].reason is None
    assert verdicts[-1].reason is Reason.SHUTTING_DOWN


def test_an_engine_that_never_comes_back_doesnt_hold_up_the_stop(
    start_daemon: Start, tmp_path: Path, sleeping_banks: Path
) -> None:
    text = "[engine]\nsleep_ms = 6000\nbatch_sizes = [1]\n[service]\ndrain_s = 0.1\n"
    recipes = '[recipes.caps]\nbank = "caps"\ncameras = ["*"]\n'
    daemon = start_daemon(config=write_config(tmp_path / "daemon", sleeping_banks, text, recipes=recipes))
    with PushCamera(daemon.addresses["push"], "cam1") as camera:
        camera.send(good_part(0))
        until(lambda: metric(daemon, "patchline_in_flight_frames") == 1)
    assert daemon.stop() == 0
    assert [verdict.reason for verdict in journalled(daemon)] == [Reason.SHUTTING_DOWN]
    assert not (tmp_path / "daemon" / "state" / "addresses.json").exists()


def test_a_reload_swaps_the_bank_and_loses_no_part(start_daemon: Start, tmp_path: Path) -> None:
    banks = tmp_path / "banks"
    old = fit_sleeping_bank(tmp_path / "a", banks, "caps")
    config = write_config(tmp_path / "daemon", banks, recipes='[recipes.caps]\nbank = "caps"\ncameras = ["*"]\n')
    daemon = start_daemon(config=config)
    with PushCamera(daemon.addresses["push"], "cam1") as camera:
        camera.send(good_part(0))
        assert verdicts_of(daemon, 1)[0].bank == old
        new = fit_sleeping_bank(tmp_path / "b", banks, "caps", seed=5)
        assert new != old
        daemon.signal(signal.SIGHUP)
        daemon.wait_for("reloaded")
        camera.send(good_part(1))
        assert verdicts_of(daemon, 2)[1].bank == new
    assert metric(daemon, 'patchline_reloads_total{outcome="success"}') == 1
    assert metric(daemon, f'patchline_bank_info{{bank="{new}",recipe="caps"}}') == 1


def test_a_reload_that_fails_leaves_the_old_bank_serving(start_daemon: Start) -> None:
    daemon = start_daemon()
    config = daemon.config.read_text()
    daemon.config.write_text(config.replace('bank = "caps"', 'bank = "no_such_bank"'))
    daemon.signal(signal.SIGHUP)
    assert "recipes.caps" in daemon.wait_for("reload_failed")["error"]
    with PushCamera(daemon.addresses["push"], "cam1") as camera:
        camera.send(good_part(0))
        assert verdicts_of(daemon, 1)[0].verdict is Outcome.PASS
    assert metric(daemon, 'patchline_reloads_total{outcome="failure"}') == 1
    assert page(daemon, "/readyz")[0] == 200


@pytest.mark.parametrize("more", [10 * 2**20, 4 * 2**20])
def test_a_reload_that_memory_doesnt_hold_leaves_the_old_bank_serving(
    start_daemon: Start, tmp_path: Path, more: int
) -> None:
    """The reload's thread takes 8 MiB, and the new bank 12."""
    banks = tmp_path / "banks"
    old = fit_sleeping_bank(tmp_path / "a", banks, "caps", dimension=2048, coreset_ratio=0.01)
    config = write_config(tmp_path / "daemon", banks, recipes='[recipes.caps]\nbank = "caps"\ncameras = ["*"]\n')
    daemon = start_daemon(config=config)
    large = fit_sleeping_bank(tmp_path / "b", banks, "caps", dimension=2048, coreset_ratio=1.0)
    with address_space(daemon.pid, more=more):
        daemon.signal(signal.SIGHUP)
        told = daemon.wait_for("reload_failed")
    assert told["error"].startswith(("MemoryError: ", "RuntimeError: can't start new thread"))
    assert "Traceback" in told["exception"]
    with PushCamera(daemon.addresses["push"], "cam1") as camera:
        camera.send(good_part(0))
        assert verdicts_of(daemon, 1)[0].bank == old
    assert page(daemon, "/healthz")[0] == 200
    daemon.signal(signal.SIGHUP)
    assert daemon.wait_for("reloaded")["recipes"] == {"caps": large}


@contextmanager
def address_space(process: int, *, more: int) -> Iterator[None]:
    """Let a process take `more` bytes of memory, and then none."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[0])
    before = resource.prlimit(process, resource.RLIMIT_AS)
    resource.prlimit(process, resource.RLIMIT_AS, (pages * resource.getpagesize() + more, before[1]))
    try:
        yield
    finally:
        resource.prlimit(process, resource.RLIMIT_AS, before)


def test_activating_a_bank_reloads_the_running_daemon(start_daemon: Start, tmp_path: Path) -> None:
    banks = tmp_path / "banks"
    fit_sleeping_bank(tmp_path / "a", banks, "caps")
    new = fit_sleeping_bank(tmp_path / "b", banks, "caps", seed=5, activated=False)
    config = write_config(tmp_path / "daemon", banks, recipes='[recipes.caps]\nbank = "caps"\ncameras = ["*"]\n')
    daemon = start_daemon(config=config)
    done = patchline("bank", "activate", "caps", new, "--banks", str(banks), "--config", str(config))
    assert done.returncode == 0, done.stderr
    assert daemon.wait_for("reloaded")["recipes"] == {"caps": new}


# systemd


@contextmanager
def notify_socket(tmp_path: Path) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(30)
        yield receiver, {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"}


def told(receiver: socket.socket, wanted: str) -> list[str]:
    """Messages up to the first that holds `wanted`."""
    messages: list[str] = []
    while not messages or wanted not in messages[-1]:
        messages.append(receiver.recv(4096).decode())
    return messages


def test_systemd_hears_of_readiness_reload_and_stop(start_daemon: Start, tmp_path: Path) -> None:
    with notify_socket(tmp_path) as (receiver, environment):
        daemon = start_daemon(environment=environment)
        told(receiver, "READY=1\nSTATUS=Serving 2 recipes")
        told(receiver, "WATCHDOG=1")
        daemon.signal(signal.SIGHUP)
        told(receiver, "RELOADING=1\nMONOTONIC_USEC=")
        told(receiver, "READY=1")
        daemon.signal(signal.SIGTERM)
        told(receiver, "STOPPING=1")
        assert daemon.wait() == 0


def test_a_stuck_engine_starves_the_watchdog_and_fails_healthz(start_daemon: Start, tmp_path: Path) -> None:
    text = "[engine]\nsleep_ms = 2000\nbatch_sizes = [1]\n[service]\nstuck_s = 0.3\ndrain_s = 0\n"
    with notify_socket(tmp_path) as (receiver, environment):
        daemon = start_daemon(text, environment=environment)
        told(receiver, "WATCHDOG=1")
        with PushCamera(daemon.addresses["push"], "cam1") as camera:
            camera.send(good_part(0))
            until(lambda: page(daemon, "/healthz")[0] == 503)
            assert metric(daemon, "patchline_healthy") == 0
            receiver.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    receiver.recv(4096)
            receiver.settimeout(30)
            verdicts_of(daemon, 1)
            told(receiver, "WATCHDOG=1")
            until(lambda: page(daemon, "/healthz")[0] == 200)


def fail_writes(daemon: DaemonProcess, *, failing: bool) -> None:
    """Let every write to a file fail in the daemon's process, as on a full disk, or succeed again."""
    _soft, hard = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (0 if failing else hard, hard))


def test_acked_parts_stay_with_their_sender_while_the_journal_fails(start_daemon: Start) -> None:
    daemon = start_daemon()
    sender = FrameSender(daemon.addresses["acked"], "cam1", stream=3)
    for number in range(5):
        sender.send(good_part(number))
    sender.flush(30)
    fail_writes(daemon, failing=True)
    for number in range(20):
        sender.send(good_part(number))
    until(lambda: page(daemon, "/readyz")[0] == 503)
    assert metric(daemon, "patchline_journal_available") == 0
    assert sender.acknowledged == 5
    fail_writes(daemon, failing=False)
    sender.flush(60)
    sender.close()
    verdicts = verdicts_of(daemon, 25)
    assert [verdict.offset for verdict in verdicts] == list(range(25))
    assert [verdict.seq - verdicts[0].seq for verdict in verdicts] == list(range(25))
    assert {verdict.reason for verdict in verdicts} == {None}
    assert page(daemon, "/readyz")[0] == 200


def test_pushed_parts_are_answered_without_offset_while_the_journal_fails(start_daemon: Start) -> None:
    daemon = start_daemon()
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.connect(daemon.addresses["verdicts"])
        subscriber.subscribe(b"verdict/")
        subscriber.rcvtimeo = 30_000
        until(lambda: metric(daemon, "patchline_subscribers") == 1)
        with PushCamera(daemon.addresses["push"], "cam1") as camera:
            fail_writes(daemon, failing=True)
            for number in range(5):
                camera.send(good_part(number))
            answers = [Verdict.unpack(subscriber.recv_multipart()[1]) for _ in range(5)]
            assert {(answer.offset, answer.reason) for answer in answers} == {(None, Reason.JOURNAL_UNAVAILABLE)}
            assert [answer.seq - answers[0].seq for answer in answers] == list(range(5))
            fail_writes(daemon, failing=False)
            until(lambda: page(daemon, "/readyz")[0] == 200)
            camera.send(good_part(9))
            after = Verdict.unpack(subscriber.recv_multipart()[1])
    assert (after.offset, after.verdict) == (0, Outcome.PASS)


def test_a_start_that_fails_has_ended_its_threads_when_it_closes_their_sockets(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    service = Service(write_config(tmp_path, tmp_path / "none"), Telemetry(CollectorRegistry()))
    with pytest.raises(BankMissingError):
        service.run()
    assert "sink" not in {thread.name for thread in set(threading.enumerate()) - before}


DYING_THREAD = """
import sys, threading
from pathlib import Path
from daemon.service import run_service

def die():
    raise RuntimeError("as a programming error would")

threading.Timer(1.0, die).start()
run_service(Path(sys.argv[1]))
"""


def test_the_death_of_a_thread_ends_the_process(tmp_path: Path, sleeping_banks: Path) -> None:
    config = write_config(tmp_path, sleeping_banks)
    done = subprocess.run(
        [sys.executable, "-c", DYING_THREAD, str(config)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    events = [json.loads(line)["event"] for line in done.stderr.splitlines() if line.startswith("{")]
    assert events[-2:] == ["thread_died", "crashed"]
