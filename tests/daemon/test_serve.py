"""`patchline serve` as a real process, spoken to over real sockets."""

import json
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import zmq

from daemon.messages import HeatmapHeader, Verdict
from daemon.outcomes import Outcome, Reason
from daemon.push_camera import PushCamera
from daemon.sender import FrameSender
from daemon.verdict_stream import VerdictStream
from patchcore_engine.images import decode, encode_png
from tests.daemon.conftest import DaemonProcess, bad_part, fit_sleeping_bank, good_part, write_config

Start = Callable[..., DaemonProcess]


def verdicts_of(daemon: DaemonProcess, count: int) -> list[Verdict]:
    """The journal's first `count` verdicts, waited for."""
    with VerdictStream(daemon.addresses["verdicts"], daemon.addresses["replay"], from_offset=0) as stream:
        found = [stream.next(30) for _ in range(count)]
    assert None not in found, f"only {found.index(None)} of {count} verdicts came"
    return [verdict for verdict in found if verdict is not None]


def page(daemon: DaemonProcess, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{daemon.addresses['telemetry']}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def metric(daemon: DaemonProcess, sample: str) -> float:
    """The value of one sample, named as /metrics writes it."""
    lines = page(daemon, "/metrics")[1].splitlines()
    (value,) = [line.rpartition(" ")[2] for line in lines if line.rpartition(" ")[0] == sample]
    return float(value)


def test_every_pushed_part_gets_its_verdict_in_order(start_daemon: Start) -> None:
    daemon = start_daemon()
    with PushCamera(daemon.addresses["push"], "cam1") as camera:
        for number in range(40):
            camera.send(bad_part(number) if number % 5 == 0 else good_part(number), part=f"part{number}")
    verdicts = verdicts_of(daemon, 40)
    assert [verdict.offset for verdict in verdicts] == list(range(40))
    assert [verdict.part for verdict in verdicts] == [f"part{number}" for number in range(40)]
    assert all((verdict.verdict is Outcome.FAIL) == (verdict.seq % 5 == 0) for verdict in verdicts)
    assert metric(daemon, 'patchline_verdicts_total{camera="cam1",verdict="fail"}') == 8
    assert metric(daemon, 'patchline_frames_received_total{camera="cam1",door="push"}') == 40


def test_an_acked_part_is_answered_with_its_journalled_verdict(start_daemon: Start) -> None:
    daemon = start_daemon()
    acks: list[object] = []
    sender = FrameSender(daemon.addresses["acked"], "cam2", on_ack=acks.append)
    for number in range(30):
        sender.send(good_part(number))
    sender.flush(30)
    sender.close()
    assert sender.acknowledged == len(acks) == 30
    assert [verdict.recipe for verdict in verdicts_of(daemon, 30)] == ["pins"] * 30


def test_heat_maps_are_drawn_for_those_who_ask(start_daemon: Start) -> None:
    daemon = start_daemon()
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.connect(daemon.addresses["verdicts"])
        subscriber.subscribe(b"heatmap/")
        subscriber.rcvtimeo = 30_000
        with PushCamera(daemon.addresses["push"], "cam1") as camera:
            header = None
            # A subscription takes a moment to arrive; until then heat maps are drawn for nobody.
            while header is None:
                camera.send(bad_part(1))
                if subscriber.poll(100):
                    topic, data, payload = subscriber.recv_multipart()
                    header = HeatmapHeader.unpack(data)
        assert topic == b"heatmap/cam1"
        levels = decode(payload)
        assert levels.shape == (header.height, header.width) == (64, 64)
        assert levels[24, 24] == 255
        assert levels[60, 60] < 128


def test_health_readiness_and_metrics_are_served(start_daemon: Start) -> None:
    daemon = start_daemon()
    assert page(daemon, "/healthz")[0] == page(daemon, "/readyz")[0] == 200
    assert metric(daemon, "patchline_ready") == 1
    assert metric(daemon, "patchline_journal_available") == 1
    assert page(daemon, "/other")[0] == 404


def test_the_state_folder_tells_where_the_daemon_is(start_daemon: Start, tmp_path: Path) -> None:
    daemon = start_daemon()
    state = tmp_path / "daemon" / "state"
    assert json.loads((state / "addresses.json").read_text()) == daemon.addresses
    assert int((state / "daemon.pid").read_text()) == daemon.pid
    assert daemon.stop() == 0
    assert not (state / "addresses.json").exists()


def test_bad_frames_get_their_reason_and_the_rest_is_judged(start_daemon: Start) -> None:
    daemon = start_daemon("[intake]\nmax_frame_bytes = 20000\nmax_cameras = 2\n")
    with PushCamera(daemon.addresses["push"], "cam1", stream=7) as camera:
        camera.send(good_part(0))
        camera.send(b"no picture at all", encoding="png")
        camera.send(good_part(1), recipe="unheard_of")
        camera.send(bytes(20_001), encoding="png")
        camera.send(good_part(2))
    verdicts = verdicts_of(daemon, 5)
    assert [verdict.reason for verdict in verdicts] == [
        None,
        Reason.UNDECODABLE,
        Reason.UNKNOWN_RECIPE,
        Reason.TOO_LARGE,
        None,
    ]
    assert [verdict.seq for verdict in verdicts] == list(range(verdicts[0].seq, verdicts[0].seq + 5))


def test_unreadable_headers_and_too_many_cameras_make_no_label(start_daemon: Start) -> None:
    daemon = start_daemon("[intake]\nmax_cameras = 1\n")
    with PushCamera(daemon.addresses["push"], "cam1") as camera:
        camera.send(good_part(0))
        verdicts_of(daemon, 1)
    with PushCamera(daemon.addresses["push"], "cam2") as camera:
        camera.send(good_part(0))
    with zmq.Context() as context, context.socket(zmq.PUSH) as sender:
        sender.connect(daemon.addresses["push"])
        sender.send_multipart([b"\xc1 not msgpack", b"payload"])
        verdicts = verdicts_of(daemon, 3)
    assert {(verdict.camera, verdict.reason) for verdict in verdicts[1:]} == {
        ("?", Reason.TOO_MANY_CAMERAS),
        ("?", Reason.MALFORMED),
    }
    assert 'camera="cam2"' not in page(daemon, "/metrics")[1]
    assert metric(daemon, 'patchline_frames_received_total{camera="?",door="push"}') == 2


def test_a_gap_is_published_part_by_part_and_a_jump_as_one_event(start_daemon: Start) -> None:
    daemon = start_daemon()
    with zmq.Context() as context, context.socket(zmq.PUSH) as sender:
        sender.connect(daemon.addresses["push"])
        for seq in (0, 3, 3 + 2**40):
            sender.send_multipart(frame("cam1", seq))
        verdicts = verdicts_of(daemon, 6)
    assert [(verdict.seq, verdict.count, verdict.reason) for verdict in verdicts] == [
        (0, 1, None),
        (1, 1, Reason.MISSING),
        (2, 1, Reason.MISSING),
        (3, 1, None),
        (4, 2**40 - 1, Reason.MISSING),
        (3 + 2**40, 1, None),
    ]


def frame(camera: str, seq: int, stream: int = 1) -> list[bytes]:
    import msgpack

    header = {"v": 1, "camera": camera, "stream": stream, "seq": seq, "captured_ns": 0, "encoding": "png"}
    return [msgpack.packb(header), encode_png(good_part(seq % 1000))]


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


def journalled(daemon: DaemonProcess) -> list[Verdict]:
    from daemon.config import load_settings
    from daemon.journal import JournalReader
    from daemon.stations import JOURNAL_FILE

    with JournalReader(load_settings(daemon.config).journal_dir / JOURNAL_FILE) as journal:
        return journal.read(0, 10_000)


def test_offsets_and_streams_go_on_after_a_kill(start_daemon: Start) -> None:
    first = start_daemon()
    sender = FrameSender(first.addresses["acked"], "cam1", stream=5)
    for number in range(10):
        sender.send(good_part(number))
    sender.flush(30)
    first.kill()
    address = first.addresses["acked"]
    config = Path(first.config)
    config.write_text(config.read_text().replace('acked = "tcp://127.0.0.1:*"', f'acked = "{address}"'))
    for number in range(10):
        sender.send(good_part(number))
    second = start_daemon(config=config)
    sender.flush(60)
    sender.close()
    verdicts = verdicts_of(second, 20)
    assert [verdict.offset for verdict in verdicts] == list(range(20))
    assert len({verdict.identity for verdict in verdicts}) == 20


def test_an_overloaded_line_sheds_and_says_so_for_every_part(start_daemon: Start) -> None:
    daemon = start_daemon("[engine]\nsleep_ms = 50\nbatch_sizes = [1]\n[queue]\nframes = 4\nframes_per_camera = 4\n")
    with PushCamera(daemon.addresses["push"], "cam1") as camera:
        for number in range(60):
            camera.send(good_part(number))
        verdicts = verdicts_of(daemon, 60)
    reasons = {verdict.reason for verdict in verdicts}
    assert reasons == {None, Reason.SHED}
    assert [verdict.seq - verdicts[0].seq for verdict in verdicts] == list(range(60))


def test_a_blocking_line_judges_everything(start_daemon: Start) -> None:
    daemon = start_daemon(
        '[engine]\nsleep_ms = 5\nbatch_sizes = [1]\n[queue]\nframes = 4\nframes_per_camera = 4\nshed = "block"\n'
    )
    sender = FrameSender(daemon.addresses["acked"], "cam2")
    with PushCamera(daemon.addresses["push"], "cam1") as camera:
        for number in range(60):
            camera.send(good_part(number))
            sender.send(good_part(number))
        verdicts = verdicts_of(daemon, 120)
    sender.close()
    assert {verdict.reason for verdict in verdicts} == {None}


def test_parts_too_old_are_late(start_daemon: Start, tmp_path: Path, sleeping_banks: Path) -> None:
    recipes = '[recipes.caps]\nbank = "caps"\ncameras = ["*"]\nmax_age_ms = 200\n'
    text = "[engine]\nsleep_ms = 100\nbatch_sizes = [1]\n"
    daemon = start_daemon(config=write_config(tmp_path / "late", sleeping_banks, text, recipes=recipes))
    with PushCamera(daemon.addresses["push"], "any") as camera:
        for number in range(30):
            camera.send(good_part(number))
        verdicts = verdicts_of(daemon, 30)
    assert {verdict.reason for verdict in verdicts} == {None, Reason.LATE}


# Reload


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
    messages = []
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


def until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    """Ask until `condition` holds; each question takes its time as a request to the daemon."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came about"


# When the disk takes no writes


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


# When a thread dies


def test_the_death_of_a_thread_ends_the_process(tmp_path: Path, sleeping_banks: Path) -> None:
    config = write_config(tmp_path, sleeping_banks)
    code = f"""
import threading
from pathlib import Path
from daemon.service import run_service

def die():
    raise RuntimeError("as a programming error would")

threading.Timer(1.0, die).start()
run_service(Path({str(config)!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    events = [json.loads(line)["event"] for line in done.stderr.splitlines() if line.startswith("{")]
    assert events[-2:] == ["thread_died", "crashed"]


# Starting


def patchline(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "daemon.cli", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_an_unknown_key_is_one_line_on_stderr(tmp_path: Path, sleeping_banks: Path) -> None:
    config = write_config(tmp_path, sleeping_banks, "[queue]\nframe = 3\n")
    done = patchline("serve", "--config", str(config))
    assert done.returncode == 1
    assert done.stderr == "error: config.toml: queue.frame: unknown key (did you mean frames?).\n"


def test_a_port_in_use_is_named(start_daemon: Start, tmp_path: Path, sleeping_banks: Path) -> None:
    daemon = start_daemon()
    config = write_config(tmp_path / "second", sleeping_banks)
    config.write_text(config.read_text().replace('push = "tcp://127.0.0.1:*"', f'push = "{daemon.addresses["push"]}"'))
    done = patchline("serve", "--config", str(config))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: {daemon.addresses['push']} can't be bound")
    assert "Traceback" not in done.stderr


def test_two_daemons_dont_share_a_state_folder(start_daemon: Start) -> None:
    daemon = start_daemon()
    done = patchline("serve", "--config", str(daemon.config))
    assert done.returncode == 1
    assert "is used by another daemon" in done.stderr


def test_a_missing_bank_stops_the_start(tmp_path: Path) -> None:
    done = patchline("serve", "--config", str(write_config(tmp_path, tmp_path / "none")))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: recipes.caps: ")


def test_help_is_quick_to_import_and_loads_no_engine() -> None:
    code = "import sys; from daemon.cli import COMMANDS, register; register(COMMANDS); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"mindspore", "faiss", "sklearn", "matplotlib", "scipy"}
    assert patchline("--help").returncode == 0


@pytest.mark.parametrize("page_path", ["/healthz", "/readyz"])
def test_pages_answer_while_frames_flow(start_daemon: Start, page_path: str) -> None:
    daemon = start_daemon("[engine]\nsleep_ms = 5\n")
    with PushCamera(daemon.addresses["push"], "cam1") as camera:
        for number in range(20):
            camera.send(good_part(number))
            assert page(daemon, page_path)[0] == 200
