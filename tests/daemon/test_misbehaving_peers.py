"""Subscribers, cameras and administrators that misbehave: the others are served, and every part is accounted for."""

import shutil
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import zmq

from daemon.client import FrameSender, PushCamera, VerdictStream
from daemon.messages import Verdict
from daemon.outcomes import Outcome, Reason
from daemon.protocol import ACK, FRAME, HELLO, WELCOME, Hello, Welcome, parse
from patchcore_engine.bank_store import activate
from tests.daemon.conftest import DaemonProcess, fit_sleeping_bank, good_part, write_config
from tests.daemon.line import Peer
from tests.daemon.serving import Start, frame, journalled, metric, page, until
from tests.e2e.account import Account, Part
from tests.e2e.cable import Cable

PATIENCE_S = 60.0


def logged(daemon: DaemonProcess, event: str) -> int:
    return sum(entry["event"] == event for entry in daemon.log)


def test_a_subscriber_that_never_reads_costs_neither_the_others_nor_memory(start_daemon: Start) -> None:
    daemon = start_daemon('[publish]\nhigh_water_mark = 20\nheatmaps = "float16"\n[queue]\nshed = "block"\n')
    picture = good_part(1)
    with (
        Peer(zmq.SUB, daemon.addresses["verdicts"]) as sleeper,
        FrameSender(daemon.addresses["acked"], "cam1", buffer_frames=8) as camera,
    ):
        sleeper.socket.rcvhwm = 1
        sleeper.socket.subscribe(b"")
        until(lambda: metric(daemon, "patchline_subscribers") == 1)
        with VerdictStream(daemon.addresses["verdicts"], daemon.addresses["replay"], from_offset=0) as stream:
            while metric(daemon, "patchline_subscribers_behind_total") == 0:
                for _ in range(100):
                    camera.send(picture)
            for _ in range(100):
                camera.send(picture)
            assert camera.flush(PATIENCE_S)
            heard = [stream.next(PATIENCE_S) for _ in range(camera.sent)]
        assert [verdict.offset for verdict in heard if verdict is not None] == list(range(camera.sent))
    daemon.wait_for("subscriber_behind")
    assert logged(daemon, "subscriber_behind") == 1


def test_of_64_cameras_one_floods_and_the_others_keep_their_share(start_daemon: Start) -> None:
    quiet, flooder, surplus, rounds = [f"quiet{n}" for n in range(63)], "flooder", 100, 5
    daemon = start_daemon(
        "[engine]\nsleep_ms = 5.0\n[queue]\nframes = 100\nframes_per_camera = 100\n[intake]\nmax_cameras = 64\n",
        recipes='[recipes.caps]\nbank = "caps"\ncameras = ["*"]\n',
    )
    with zmq.Context() as context:
        doors = {name: context.socket(zmq.PUSH) for name in (*quiet, flooder)}
        for door in doors.values():
            door.linger = 0
            door.connect(daemon.addresses["push"])
        heard: list[Verdict] = []
        with VerdictStream(daemon.addresses["verdicts"], daemon.addresses["replay"], from_offset=0) as stream:
            for turn in range(rounds):
                for seq in range(turn * surplus, (turn + 1) * surplus):
                    doors[flooder].send_multipart(frame(flooder, seq))
                for name in quiet:
                    doors[name].send_multipart(frame(name, turn))
                while len(heard) < (turn + 1) * (surplus + len(quiet)):
                    verdict = stream.next(PATIENCE_S)
                    assert verdict is not None, f"silence after {len(heard)} verdicts"
                    heard.append(verdict)
        for door in doors.values():
            door.close()
    sent: set[Part] = {(flooder, 1, seq) for seq in range(rounds * surplus)}
    sent |= {(name, 1, seq) for name in quiet for seq in range(rounds)}
    account = Account.of(sent, heard)
    assert account.balanced, account
    assert set(account.not_inspected) == {Reason.SHED}
    assert {verdict.camera for verdict in heard if verdict.verdict is Outcome.NOT_INSPECTED} == {flooder}
    assert any(verdict.camera == flooder and verdict.score is not None for verdict in heard)
    told = daemon.wait_for("queue_full")
    assert told["camera"] == flooder
    assert metric(daemon, 'patchline_verdicts_total{camera="flooder",verdict="not_inspected"}') > 0


def test_a_camera_that_connects_a_thousand_times_leaves_nothing_behind(start_daemon: Start) -> None:
    daemon = start_daemon("[intake]\nheartbeat_ms = 200\n")
    process = psutil.Process(daemon.pid)

    def connect(streams: range) -> None:
        for stream in streams:
            hello = Hello(camera="cam1", stream=stream)
            with context.socket(zmq.DEALER) as acked, context.socket(zmq.PUSH) as push:
                acked.linger, push.linger = 0, 10_000
                acked.rcvtimeo = int(PATIENCE_S * 1000)
                acked.routing_id = hello.routing_id
                acked.connect(daemon.addresses["acked"])
                acked.send_multipart([HELLO, hello.pack()])
                kind, welcome = acked.recv_multipart()
                assert kind == WELCOME
                acked.send_multipart([FRAME, parse(Welcome, welcome).session, *frame("cam1", 0, stream)])
                assert acked.recv_multipart()[0] == ACK
                push.connect(daemon.addresses["push"])
                push.send_multipart(frame("cam2", 0, stream))

    def at_rest() -> tuple[int, int]:
        until(lambda: metric(daemon, "patchline_acked_senders") == 0 == metric(daemon, "patchline_in_flight_frames"))
        return process.num_fds(), process.num_threads()

    with zmq.Context() as context:
        connect(range(200))
        until(lambda: at_rest() == at_rest())
        before, rss = at_rest(), process.memory_info().rss
        connect(range(200, 1200))
        until(lambda: at_rest() == before)
        assert process.memory_info().rss - rss < 8 * 2**20
    verdicts = journalled(daemon)
    sent: set[Part] = {(camera, stream, 0) for camera in ("cam1", "cam2") for stream in range(1200)}
    account = Account.of(sent, verdicts)
    assert account.balanced, account
    assert account.judged == len(sent)


def test_a_camera_whose_connection_breaks_while_the_queue_is_full_takes_nobody_with_it(start_daemon: Start) -> None:
    daemon = start_daemon('[engine]\nsleep_ms = 200.0\nbatch_sizes = [1]\n[queue]\nframes = 1\nshed = "block"\n')
    with Cable(daemon.addresses["push"]) as cable, zmq.Context() as context:
        with context.socket(zmq.PUSH) as camera:
            camera.linger, camera.sndhwm, camera.sndtimeo = 0, 1, 1000
            camera.connect(cable.address)
            seq = 0
            # Until nothing moves: the queue, ZeroMQ and TCP are full.
            with suppress(zmq.Again):
                while True:
                    camera.send_multipart(frame("cam1", seq))
                    seq += 1
            camera.disconnect(cable.address)
            cable.cut()
        with PushCamera(daemon.addresses["push"], "cam2") as other:
            other.send(good_part(1))
            # What waited in ZeroMQ is judged, longer than any heartbeat's interval, and then the other's part.
            until(lambda: 'camera="cam2",verdict="pass"} 1.0' in page(daemon, "/metrics")[1], PATIENCE_S)
    assert daemon.stop() == 0


def test_a_storm_of_reloads_is_answered_by_a_few_and_the_last_is_not_lost(
    start_daemon: Start, tmp_path: Path, sleeping_banks: Path
) -> None:
    storm, parts = 100_000, 50
    banks = shutil.copytree(sleeping_banks, tmp_path / "banks", symlinks=True)
    config = write_config(tmp_path / "line", banks)
    daemon = start_daemon(config=config)
    first = (banks / "caps" / "active").resolve().name
    second = fit_sleeping_bank(tmp_path / "good", banks, "caps", seed=7, activated=False)
    with FrameSender(daemon.addresses["acked"], "cam1", buffer_frames=parts) as camera:
        for number in range(parts):
            camera.send(good_part(number))
            for _ in range(storm // parts):
                daemon.signal(signal.SIGHUP)
        activate(banks, "caps", second)
        daemon.signal(signal.SIGHUP)
        assert camera.flush(PATIENCE_S)
        until(lambda: f'bank="{second}"' in page(daemon, "/metrics")[1])
        camera.send(good_part(1))
        assert camera.flush(PATIENCE_S)
    verdicts = journalled(daemon)
    assert [verdict.seq for verdict in verdicts] == list(range(parts + 1))
    assert {verdict.verdict for verdict in verdicts} == {Outcome.PASS}
    assert {verdict.bank for verdict in verdicts[:-1]} <= {first, second}
    assert verdicts[-1].bank == second
    assert metric(daemon, 'patchline_reloads_total{outcome="failure"}') == 0
    assert metric(daemon, "patchline_reload_requests_total") > 1
    assert daemon.stop() == 0
    assert 0 < logged(daemon, "reloaded") < storm / 100
    assert daemon.other_lines == []
