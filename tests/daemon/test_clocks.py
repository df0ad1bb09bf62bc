"""Clocks that are wrong or jump, the cameras' and the host's: verdicts, their order and their offsets stay the same."""

import signal
from pathlib import Path

import zmq

from daemon.outcomes import Outcome
from daemon.push_camera import PushCamera
from daemon.sender import FrameSender
from tests.daemon.conftest import DaemonProcess, good_part
from tests.daemon.serving import Start, frame, metric, page, verdicts_of
from tests.daemon.shift import lines, troubles

DAY_S = 86_400
DAY_NS = DAY_S * 10**9
AGED = "[recipes.caps]\nmax_age_ms = 20000\n"

# Python runs this before the daemon: the host's wall clock is off by what the file says.
STEPPED_CLOCK = """
import pathlib, time
offset, true_time_ns = pathlib.Path({path!r}), time.time_ns
time.time_ns = lambda: true_time_ns() + int(offset.read_text())
time.time = lambda: time.time_ns() / 1e9
"""


def send(daemon: DaemonProcess, first: int, count: int) -> None:
    with zmq.Context() as context, context.socket(zmq.PUSH) as sender:
        sender.connect(daemon.addresses["push"])
        for seq in range(first, first + count):
            sender.send_multipart(frame("cam1", seq))


def test_a_cameras_clock_is_carried_and_decides_nothing(start_daemon: Start) -> None:
    daemon = start_daemon(AGED)
    clocks = [0, -(2**63), 2**63 - 1, 10**18]
    with PushCamera(daemon.addresses["push"], "cam1") as camera:
        for captured_ns in clocks:
            camera.send(good_part(1), captured_ns=captured_ns)
    verdicts = verdicts_of(daemon, len(clocks))
    assert [verdict.captured_ns for verdict in verdicts] == clocks
    assert all(verdict.verdict is not Outcome.NOT_INSPECTED for verdict in verdicts)


def test_the_hosts_clock_stepped_by_a_day_both_ways_loses_and_delays_nothing(
    start_daemon: Start, tmp_path: Path
) -> None:
    offset = tmp_path / "offset"
    offset.write_text("0")
    (tmp_path / "sitecustomize.py").write_text(STEPPED_CLOCK.format(path=str(offset)))
    daemon = start_daemon(AGED, environment={"PYTHONPATH": str(tmp_path)})
    with FrameSender(daemon.addresses["acked"], "cam2") as sender:
        for number, step_ns in enumerate((0, DAY_NS, -DAY_NS)):
            offset.write_text(str(step_ns))
            if step_ns:
                assert abs(daemon.wait_for("clock_stepped")["seconds"]) > DAY_S / 2
                daemon.signal(signal.SIGHUP)
                daemon.wait_for("reloaded")
            send(daemon, 10 * number, 10)
            for seq in range(10):
                sender.send(good_part(seq))
            assert sender.flush(30)
            everything = verdicts_of(daemon, 20 * (number + 1))
    assert [verdict.offset for verdict in everything] == list(range(60))
    assert [verdict.seq for verdict in everything if verdict.camera == "cam2"] == list(range(30))
    verdicts = [verdict for verdict in everything if verdict.camera == "cam1"]
    assert [verdict.seq for verdict in verdicts] == list(range(30))
    assert all(verdict.verdict is not Outcome.NOT_INSPECTED for verdict in everything)
    assert "NTP" in lines(daemon, "clock_stepped")[0]["advice"]
    assert metric(daemon, "patchline_clock_steps_total") == 2
    assert metric(daemon, "patchline_journal_available") == 1
    assert page(daemon, "/healthz")[0] == 200
    assert "clock" in troubles(daemon)
    assert daemon.stop() == 0
    received = [verdicts[number].received_ns for number in (0, 10, 20)]
    assert received[1] - received[0] > DAY_NS / 2 > 0 > received[2] - received[0]
