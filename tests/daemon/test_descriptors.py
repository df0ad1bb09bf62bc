"""File descriptors run out: who is connected is served, who comes is turned away, and the daemon says so."""

import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from daemon.client import FrameSender, PushCamera
from tests.daemon.conftest import DaemonProcess, good_part
from tests.daemon.serving import Start, metric, until, verdicts_of
from tests.daemon.test_misbehaving_peers import PATIENCE_S, logged

ALLOWED = 1024
# Half of what is allowed is spare.
LIMIT = ALLOWED // 2
CONNECT_S = 0.5
DOORS = ("push", "acked", "verdicts", "replay")


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Let this process itself have enough of them."""
    soft, hard = found = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * ALLOWED:
        pytest.skip(f"needs {2 * ALLOWED} file descriptors, and the hard limit here is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * ALLOWED), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, found)


def connect(address: str) -> socket.socket | None:
    """A connection that says nothing; None where nobody takes it."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    try:
        return socket.create_connection((host, int(port)), CONNECT_S)
    except TimeoutError:
        return None


def fill(daemon: DaemonProcess, mute: ExitStack) -> None:
    """Connect to the daemon's doors by turns until it says that it is short of descriptors."""
    held = 0
    while not logged(daemon, "descriptors_short"):
        for door in DOORS:
            # None: the door's backlog was full for a moment.
            if (connection := connect(daemon.addresses[door])) is not None:
                mute.enter_context(connection)
                held += 1
        assert held < 2 * ALLOWED, "nobody is turned away"


def test_connections_that_take_all_descriptors_are_turned_away_and_everybody_else_is_served(
    start_daemon: Start, many_descriptors: None
) -> None:
    daemon = start_daemon(descriptors=ALLOWED)
    with FrameSender(daemon.addresses["acked"], "cam1") as camera, ExitStack() as mute:
        camera.send(good_part(0))
        assert camera.flush(PATIENCE_S)
        assert metric(daemon, "patchline_descriptors_limit") == LIMIT
        fill(daemon, mute)
        assert [door for door in DOORS if connect(daemon.addresses[door]) is not None] == []
        told = daemon.wait_for("descriptors_short")
        assert "LimitNOFILE" in told["advice"]
        # /metrics takes a descriptor, and a reload several.
        assert metric(daemon, "patchline_descriptors_short") == 1
        camera.send(good_part(1))
        assert camera.flush(PATIENCE_S)
        daemon.signal(signal.SIGHUP)
        daemon.wait_for("reloaded")
    daemon.wait_for("descriptors_well")
    until(lambda: metric(daemon, "patchline_descriptors_short") == 0)
    with PushCamera(daemon.addresses["push"], "cam2") as camera_after:
        camera_after.send(good_part(2))
        assert [verdict.camera for verdict in verdicts_of(daemon, 3)] == ["cam1", "cam1", "cam2"]
    assert logged(daemon, "descriptors_short") == 1
    assert daemon.stop() == 0


def test_a_daemon_that_is_allowed_few_descriptors_says_how_many_it_needs(start_daemon: Start) -> None:
    daemon = start_daemon("[intake]\nmax_cameras = 100\n", descriptors=300)
    told = [entry for entry in daemon.log if entry["event"] == "descriptors_few"]
    assert [(entry["needed"], entry["limit"]) for entry in told] == [(264, 150)]
    assert "ulimit" in told[0]["advice"]
