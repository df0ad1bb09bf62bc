"""What the client module promises as a whole, and its plainest member, `PushCamera`."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.client import (
    FrameSender,
    MessageError,
    NotRunningError,
    PushCamera,
    VerdictStream,
)
from daemon.push_camera import SEND_HIGH_WATER_MARK
from tests.daemon.line import PATIENCE_S, PNG, Line


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    with Line(tmp_path) as running:
        yield running


def test_addresses_and_cameras_that_cannot_be_are_refused_at_once() -> None:
    with pytest.raises(NotRunningError, match="nowhere"):
        FrameSender("nowhere", "left")
    with pytest.raises(NotRunningError, match="nowhere"):
        PushCamera("nowhere", "left")
    with pytest.raises(NotRunningError, match="nowhere"):
        VerdictStream("ipc:///tmp/x", "nowhere")
    with pytest.raises(MessageError, match="camera"):
        FrameSender("tcp://127.0.0.1:1", "no such name!")


def test_a_push_camera_counts_its_frames_and_waits_for_nothing(line: Line) -> None:
    with PushCamera(line.push, "left", stream=5) as camera:
        assert [camera.send(PNG) for _ in range(3)] == [0, 1, 2]
    line.journal.wait_for(lambda: len(line.journal.verdicts) == 3)
    assert [verdict.identity for verdict in line.journal.verdicts] == [("left", 5, seq) for seq in range(3)]


def test_a_push_camera_says_when_no_daemon_takes_its_frames(tmp_path: Path) -> None:
    camera = PushCamera(f"ipc://{tmp_path}/push", "left", timeout_s=0.05)
    for _ in range(SEND_HIGH_WATER_MARK):
        camera.send(PNG)
    with pytest.raises(NotRunningError, match="No daemon"):
        camera.send(PNG)
    camera.close(timeout_s=0)


def test_clients_work_over_tcp_too(tmp_path: Path) -> None:
    with Line(tmp_path, tcp=True) as line:
        with PushCamera(line.push, "left") as camera:
            camera.send(PNG)
        with FrameSender(line.acked, "right") as sender:
            sender.send(PNG)
            sender.send(PNG)
            assert sender.flush(PATIENCE_S)
        with VerdictStream(line.verdicts, line.replay_address, from_offset=0, timeout=PATIENCE_S) as stream:
            assert [next(stream).offset for _ in range(3)] == [0, 1, 2]


def test_the_client_module_loads_neither_engine_nor_opencv() -> None:
    code = "import json, sys, daemon.client; print(json.dumps(sorted(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"mindspore", "cv2", "faiss", "patchcore_engine", "prometheus_client", "typer"} & set(json.loads(loaded))
