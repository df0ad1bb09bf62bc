"""Which connections are cut when memory is above its ceiling, and which are not."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from math import inf
from pathlib import Path

import pytest
import zmq
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from daemon import unfinished
from daemon.config import MIB
from daemon.descriptors import DescriptorGuard, borrowed
from daemon.door_socket import DoorSocket
from daemon.memory_ceiling import MemoryCeiling
from daemon.own_memory import OwnMemory
from daemon.telemetry import Telemetry
from daemon.unfinished import UnfinishedGuard, taken_bytes
from tests.daemon.line import PATIENCE_S, Peer
from tests.daemon.zmtp import RawPeer, message, part

FAR_ABOVE = 2**60


class Guarded:
    """A door of this process, its guard, and a ceiling that a test lowers below what the process holds."""

    def __init__(self, address: str, most_unfinished_together: float = inf) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.door = DoorSocket(self.context, zmq.PULL, address, most_unfinished_together=most_unfinished_together)
        self.ceiling = MemoryCeiling(FAR_ABOVE)
        self.telemetry = Telemetry(CollectorRegistry())
        self.guard = UnfinishedGuard([self.door], self.telemetry, self.ceiling)

    @property
    def cut(self) -> float:
        return self.telemetry.registry.get_sample_value("patchline_unfinished_messages_cut_total") or 0

    def begin(self, peer: RawPeer, content: bytes = bytes(5000)) -> None:
        """Let a peer begin a message, or go on with it, and see that ZeroMQ has taken it in."""
        deadline = time.monotonic() + PATIENCE_S
        self.guard.look()
        before = self._taken()
        assert peer.say(part(content, more=True))
        while self._taken() < before + len(content):
            self.guard.look()
            assert time.monotonic() < deadline

    def receive(self) -> None:
        assert self.door.socket.poll(int(PATIENCE_S * 1000))
        assert self.door.receive(2) is not None

    def _taken(self) -> int:
        return sum(connection.taken for connection in self.guard._known.values())

    def close(self) -> None:
        self.door.close()
        self.context.term()
        self.ceiling.close()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[ExitStack]:
    monkeypatch.setattr(unfinished, "LOOK_S", 0.0)
    with ExitStack() as stack:
        yield stack


def open_guarded(opened: ExitStack, address: str, most_unfinished_together: float = inf) -> Guarded:
    guarded = Guarded(address, most_unfinished_together)
    opened.callback(guarded.close)
    return guarded


def taken_from(peer: RawPeer) -> int:
    """Bytes that ZeroMQ has read from a peer's connection, which is in this process."""
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError), borrowed(int(entry.name), socket.AF_INET) as connection:
            if connection.getpeername() == peer.socket.getsockname():
                return taken_bytes(connection)
    return 0


def is_open(peer: RawPeer) -> bool:
    peer.socket.setblocking(False)
    try:
        while peer.socket.recv(4096):
            pass
    except BlockingIOError:
        return True
    except ConnectionError:
        pass
    return False


def test_who_is_in_the_middle_of_a_message_is_cut_and_who_rests_or_sends_whole_ones_is_not(opened: ExitStack) -> None:
    guarded = open_guarded(opened, "tcp://127.0.0.1:*")
    hostile, resting, sending = (opened.enter_context(RawPeer(guarded.door.address).greet("PUSH")) for _ in range(3))
    guarded.begin(hostile)
    for peer in (resting, sending):
        assert peer.say(message(b"header", bytes(5000)))
        guarded.receive()
    guarded.guard.look()
    assert sending.say(message(b"header", bytes(5000)))
    guarded.receive()
    guarded.ceiling.bytes = 1
    with capture_logs() as logs:
        guarded.guard.look()
    hostile.wait_for_the_end()
    assert (is_open(resting), is_open(sending), guarded.cut) == (True, True, 1)
    assert guarded.ceiling.turns_away
    (line,) = logs
    assert (line["event"], line["connections"], line["peers"]) == ("memory_ceiling_cut", 1, ["127.0.0.1"])
    assert line["bytes"] >= 5000


def test_a_message_long_under_way_is_cut_first_and_younger_ones_when_memory_rises_on(
    opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfinished, "LONG_UNDER_WAY_S", 0.2)
    guarded = open_guarded(opened, "tcp://127.0.0.1:*")
    old = opened.enter_context(RawPeer(guarded.door.address).greet("PUSH"))
    guarded.begin(old)
    begin = time.monotonic()
    while time.monotonic() < begin + 0.25:
        guarded.guard.look()
    # A camera whose frame is on its way.
    young = opened.enter_context(RawPeer(guarded.door.address).greet("PUSH"))
    guarded.begin(young)
    begun = taken_from(old)
    assert old.say(part(bytes(5000), more=True))
    while taken_from(old) < begun + 5000:
        assert time.monotonic() < begin + PATIENCE_S
    guarded.ceiling.bytes = 1
    guarded.guard.look()
    old.wait_for_the_end()
    assert (is_open(young), guarded.cut) == (True, 1)
    risen = b"x" * 32 * MIB
    guarded.guard.look()
    assert len(risen) == 32 * MIB
    young.socket.setblocking(True)
    young.wait_for_the_end()
    assert guarded.cut == 2


def test_over_ipc_whoever_no_message_came_from_is_cut(opened: ExitStack, tmp_path: Path) -> None:
    guarded = open_guarded(opened, f"ipc://{tmp_path}/door")
    hostile, honest = (opened.enter_context(RawPeer(guarded.door.address).greet("PUSH")) for _ in range(2))
    assert hostile.say(part(bytes(5000), more=True))
    guarded.guard.look()
    assert honest.say(message(b"header", bytes(5000)))
    guarded.receive()
    guarded.ceiling.bytes = 1
    with capture_logs() as logs:
        guarded.guard.look()
    hostile.wait_for_the_end()
    assert (is_open(honest), guarded.cut) == (True, 1)
    assert logs[0]["peers"][0].startswith("process ")


def test_a_budget_that_was_too_low_costs_nobody_a_connection_and_is_told(opened: ExitStack) -> None:
    guarded = open_guarded(opened, "tcp://127.0.0.1:*")
    with Peer(zmq.PUSH, guarded.door.address) as camera:
        camera.send(b"header", bytes(5000))
        guarded.receive()
        guarded.ceiling.bytes = 1
        with capture_logs() as logs:
            guarded.guard.look()
        (line,) = logs
        assert line["event"] == "memory_above_budget"
        assert (guarded.cut, guarded.ceiling.turns_away) == (0, False)
        # It stays where it is: nothing to do.
        guarded.ceiling.bytes = MIB * (guarded.ceiling.held // MIB)
        with capture_logs() as logs:
            guarded.guard.look()
        assert logs == []
        camera.send(b"header", bytes(5000))
        guarded.receive()


def test_many_subscribers_together_may_subscribe_to_so_much_and_the_largest_go_first(opened: ExitStack) -> None:
    guarded = open_guarded(opened, "tcp://127.0.0.1:*", most_unfinished_together=15_000)
    small, large = (opened.enter_context(RawPeer(guarded.door.address).greet("PUSH")) for _ in range(2))
    guarded.begin(small)
    assert large.say(part(bytes(20_000), more=True))
    deadline = time.monotonic() + PATIENCE_S
    while not guarded.cut:
        guarded.guard.look()
        assert time.monotonic() < deadline
    large.wait_for_the_end()
    guarded.guard.look()
    assert (is_open(small), guarded.cut) == (True, 1)


def test_new_connections_are_turned_away_while_memory_is_short(opened: ExitStack) -> None:
    guarded = open_guarded(opened, "tcp://127.0.0.1:*")
    host, _, port = guarded.door.address.removeprefix("tcp://").rpartition(":")
    descriptors = DescriptorGuard([guarded.door.address], guarded.telemetry, needed=1)
    opened.callback(descriptors.close)
    descriptors.turn_away(for_memory=True)
    with pytest.raises(TimeoutError):
        socket.create_connection((host, int(port)), 0.2)
    descriptors.turn_away(for_memory=False)
    socket.create_connection((host, int(port)), PATIENCE_S).close()


def test_what_the_process_holds_is_its_own_memory() -> None:
    memory = OwnMemory()
    before = memory.held()
    block = b"x" * (64 * MIB)
    assert 60 * MIB < memory.held() - before < 70 * MIB
    del block
    assert memory.held() - before < 10 * MIB
    memory.close()
