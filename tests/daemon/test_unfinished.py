"""A peer that never ends a message is cut off, and one that sends large ones that end is not."""

import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest
import zmq
from prometheus_client import CollectorRegistry

from daemon import unfinished
from daemon.client import FrameSender
from daemon.descriptors import borrowed
from daemon.door_socket import MOST_PARTS, PASSED_OVER, DoorSocket
from daemon.memory_ceiling import MemoryCeiling
from daemon.push_camera import PushCamera
from daemon.telemetry import Telemetry
from daemon.unfinished import UnfinishedGuard, taken_bytes
from tests.daemon.conftest import good_part
from tests.daemon.line import PATIENCE_S, Peer
from tests.daemon.serving import Start, frame, metric, verdicts_of
from tests.daemon.zmtp import RawPeer, message, part

PART_BYTES = 64 * 1024


class Endless(RawPeer):
    """A peer of a push door that begins a message and never ends it."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.greet("PUSH")

    def send(self, content: bytes) -> bool:
        """Send one more part; False once the daemon has closed the connection."""
        return self.say(part(content, more=True))


def send_without_end(address: str) -> None:
    """Send parts until the daemon cuts the connection; slowly, so that it looks long before the memory is full."""
    with Endless(address) as endless:
        sent = 0
        while endless.send(bytes(PART_BYTES)):
            sent += PART_BYTES
            assert sent < 2**30
            endless.listen(0.01)


def test_a_message_without_end_is_cut_and_others_go_on(start_daemon: Start) -> None:
    daemon = start_daemon("[intake]\nmax_frame_bytes = 1048576\n")
    with PushCamera(daemon.addresses["push"], "cam1") as camera:
        camera.send(good_part(0))
        assert verdicts_of(daemon, 1)
        # A peer that a busy machine stops for seconds is cut for its silence, and begins anew.
        while not metric(daemon, "patchline_unfinished_messages_cut_total"):
            send_without_end(daemon.addresses["push"])
        cut = daemon.wait_for("unfinished_message_cut")
        assert cut["door"] == daemon.addresses["push"]
        assert cut["peer"] == "127.0.0.1"
        assert "without end" in cut["advice"]
        camera.send(good_part(1))
        assert [verdict.camera for verdict in verdicts_of(daemon, 2)] == ["cam1", "cam1"]


@pytest.mark.parametrize("door", ["push", "acked"])
def test_a_message_of_many_parts_is_cut_after_it_and_others_go_on(start_daemon: Start, door: str) -> None:
    daemon = start_daemon()
    with RawPeer(daemon.addresses[door]).greet("PUSH" if door == "push" else "DEALER") as hostile:
        hostile.say(message(*frame("cam1", 0)[:1], *[b""] * 200_000, b"the end"))
        hostile.wait_for_the_end()
    cut = daemon.wait_for("message_of_many_parts_cut")
    assert (cut["door"], cut["peers"], cut["connections"]) == (daemon.addresses[door], ["127.0.0.1"], 1)
    assert metric(daemon, "patchline_unfinished_messages_cut_total") == 1
    with (
        PushCamera(daemon.addresses["push"], "cam2") as camera,
        FrameSender(daemon.addresses["acked"], "cam1") as sender,
    ):
        camera.send(good_part(0))
        sender.send(good_part(1))
        assert sender.flush(PATIENCE_S)
        judged = [
            verdict.camera for verdict in verdicts_of(daemon, 3 if door == "push" else 2) if verdict.reason is None
        ]
    assert sorted(judged) == ["cam1", "cam2"]


def test_parts_without_end_are_passed_over_a_number_at_a_time() -> None:
    with zmq.Context() as context:
        door = DoorSocket(context, zmq.PULL, "tcp://127.0.0.1:*")
        with RawPeer(door.address).greet("PUSH") as hostile, Peer(zmq.PUSH, door.address) as camera:
            hostile.say(message(*[b""] * (3 * PASSED_OVER)))
            assert door.socket.poll(int(PATIENCE_S * 1000))
            received = door.receive(2)
            assert received is not None
            assert (len(received[0]), received[1], door.passing_over) == (2, MOST_PARTS + 1, True)
            assert [door.receive(2), door.passing_over] == [None, True]
            camera.send(b"header", b"payload")
            while (received := door.receive(2)) is None:
                assert door.socket.poll(int(PATIENCE_S * 1000))
            assert (received[1], door.passing_over) == (2, False)
            hostile.wait_for_the_end()
        assert door.take_cut() == ["127.0.0.1"]
        assert door.take_cut() == []
        door.close()


def test_a_connection_that_has_taken_the_descriptor_of_one_to_be_cut_is_left_alone() -> None:
    with zmq.Context() as context:
        first, second = (DoorSocket(context, zmq.PULL, "tcp://127.0.0.1:*") for _ in range(2))
        with Peer(zmq.PUSH, first.address) as camera:
            for _ in range(2):
                camera.send(b"frame")
            assert first.socket.poll(int(PATIENCE_S * 1000))
            # To the other door this descriptor's connection is a stranger's.
            second._cut_connection(first.socket.recv(copy=False))
            assert (second.take_cut(), first.take_cut()) == ([], [])
            assert first.socket.poll(int(PATIENCE_S * 1000))
            first._cut_connection(first.socket.recv(copy=False))
            assert first.take_cut() == ["127.0.0.1"]
        first.close()
        second.close()


def test_a_guard_looks_more_often_while_a_message_grows(
    guarded: "tuple[DoorSocket, UnfinishedGuard, Telemetry]",
) -> None:
    door, guard, _ = guarded
    calm = guard.interval_s
    with Endless(door.address) as endless:
        guard.look()
        deadline = time.monotonic() + PATIENCE_S
        while guard.interval_s == calm:
            assert endless.send(bytes(1000))
            guard.look()
            assert time.monotonic() < deadline
    while guard.interval_s != calm:
        guard.look()
        assert time.monotonic() < deadline
    door.close()
    door.socket.context.term()


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> "tuple[DoorSocket, UnfinishedGuard, Telemetry]":
    monkeypatch.setattr(unfinished, "LOOK_S", 0.0)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    door = DoorSocket(context, zmq.PULL, "tcp://127.0.0.1:*", most_unfinished_bytes=3 * PART_BYTES)
    telemetry = Telemetry(CollectorRegistry())
    return door, UnfinishedGuard([door], telemetry, MemoryCeiling(2**60)), telemetry


def test_large_messages_that_end_are_not_cut(guarded: "tuple[DoorSocket, UnfinishedGuard, Telemetry]") -> None:
    door, guard, telemetry = guarded
    with Peer(zmq.PUSH, door.address) as camera:
        for _ in range(20):
            camera.send(b"header", bytes(PART_BYTES))
            assert door.socket.poll(int(PATIENCE_S * 1000))
            door.socket.recv(copy=False)
            last = door.socket.recv(copy=False)
            door.heard.add(int(last.get(zmq.SRCFD)))
            guard.look()
        assert telemetry.registry.get_sample_value("patchline_unfinished_messages_cut_total") == 0
    door.close()
    door.socket.context.term()


def taken_at(door: DoorSocket) -> int:
    """Bytes that ZeroMQ has read from the one connection of `door`, which is in this process."""
    port = int(door.address.rpartition(":")[2])
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError), borrowed(int(entry.name), socket.AF_INET) as connection:
            if connection.getsockname()[1] == port and connection.getpeername():
                return taken_bytes(connection)
    return 0


def test_heartbeats_are_forgiven(
    guarded: "tuple[DoorSocket, UnfinishedGuard, Telemetry]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that sends less than HEARTBEAT_BYTES_S is never cut, however long it stays."""
    door, guard, telemetry = guarded
    monkeypatch.setattr(unfinished, "HEARTBEAT_BYTES_S", 2**60)
    with Endless(door.address) as endless:
        deadline = time.monotonic() + PATIENCE_S
        while taken_at(door) <= 2 * door.most_unfinished_bytes:
            assert endless.send(bytes(PART_BYTES))
            guard.look()
            assert time.monotonic() < deadline
        assert telemetry.registry.get_sample_value("patchline_unfinished_messages_cut_total") == 0
        monkeypatch.setattr(unfinished, "HEARTBEAT_BYTES_S", 0)
        deadline = time.monotonic() + PATIENCE_S
        while endless.send(bytes(PART_BYTES)) and time.monotonic() < deadline:
            guard.look()
        assert telemetry.registry.get_sample_value("patchline_unfinished_messages_cut_total") == 1
    door.close()
    door.socket.context.term()


def test_what_the_program_has_not_read_is_not_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            client.sendall(bytes(1000))
            assert accepted.recv(400, socket.MSG_WAITALL)
            assert taken_bytes(accepted) == 400
