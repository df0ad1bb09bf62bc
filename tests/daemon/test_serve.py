"""`patchline serve` as a real process, spoken to over real sockets."""

import subprocess
import sys
from pathlib import Path

import msgpack
import zmq
from prometheus_client.parser import text_string_to_metric_families

from daemon.messages import HeatmapHeader
from daemon.outcomes import Outcome, Reason
from daemon.push_camera import PushCamera
from daemon.sender import FrameSender
from patchcore_engine.images import decode, encode_png
from tests.daemon.conftest import bad_part, good_part, write_config
from tests.daemon.serving import Start, frame, metric, page, patchline, until, verdicts_of


def test_every_pushed_part_gets_its_verdict_in_order(start_daemon: Start) -> None:
    daemon = start_daemon()
    with PushCamera(daemon.addresses["push"], "cam1") as camera:
        for number in range(40):
            camera.send(bad_part(number) if number % 5 == 0 else good_part(number), part=f"part{number}")
    verdicts = verdicts_of(daemon, 40)
    assert [verdict.offset for verdict in verdicts] == list(range(40))
    assert [verdict.part for verdict in verdicts] == [f"part{number}" for number in range(40)]
    assert all((verdict.verdict is Outcome.FAIL) == (verdict.seq % 5 == 0) for verdict in verdicts)
    until(lambda: metric(daemon, 'patchline_verdicts_total{camera="cam1",verdict="fail"}') == 8)
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
    families = {family.name: family for family in text_string_to_metric_families(page(daemon, "/metrics")[1])}
    (build,) = families["patchline_build_info"].samples
    assert set(build.labels) == {"patchline", "mindspore", "faiss_cpu", "numpy"}


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


def test_after_a_restart_a_camera_that_is_listed_now_has_another_s_place_and_goes_on_where_it_was(
    start_daemon: Start,
) -> None:
    first = start_daemon("[intake]\nmax_cameras = 2\n")

    def push(address: str, camera: str, seq: int) -> None:
        """A frame without a stream: only what is remembered of its camera tells where it belongs."""
        header = {"v": 1, "camera": camera, "seq": seq, "captured_ns": 0, "encoding": "png"}
        with zmq.Context() as context, context.socket(zmq.PUSH) as sender:
            sender.connect(address)
            sender.send_multipart([msgpack.packb(header), encode_png(good_part(seq))])

    push(first.addresses["push"], "trial", 0)
    (before,) = verdicts_of(first, 1)
    push(first.addresses["push"], "typo", 0)
    verdicts_of(first, 2)
    first.kill()
    config = first.config
    config.write_text(config.read_text().replace("max_cameras = 2", "max_cameras = 1").replace('"cam1"', '"trial"'))
    second = start_daemon(config=config)
    assert metric(second, 'patchline_duplicate_frames_total{camera="typo"}') == 0
    push(second.addresses["push"], "trial", 2)
    after = verdicts_of(second, 4)[2:]
    assert [(verdict.stream, verdict.seq, verdict.reason) for verdict in after] == [
        (before.stream, 1, Reason.MISSING),
        (before.stream, 2, None),
    ]
    assert 'camera="typo"' not in page(second, "/metrics")[1]


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
