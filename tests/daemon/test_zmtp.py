"""Peers that speak ZeroMQ's own protocol otherwise than ours: older versions of it, and anything at all."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.client import FrameSender, PushCamera
from daemon.door_socket import DoorSocket
from daemon.protocol import HELLO, Hello, ReplayRequest
from tests.daemon.conftest import good_part
from tests.daemon.keyring import Keyring
from tests.daemon.line import PNG, Line, Peer, frame_header
from tests.daemon.serving import Start, frame, verdicts_of
from tests.daemon.zmtp import RawPeer, message, old_message, opening, part

# What a peer of each door says first.
DOORS = {
    "push": ("PUSH", frame("cam1", 0)),
    "acked": ("DEALER", [HELLO, Hello(camera="cam1", stream=1).pack()]),
    "verdicts": ("SUB", [b"\1verdict/"]),
    "replay": ("DEALER", [ReplayRequest(id=1, first=0, limit=1).pack()]),
}
PACKING = {1: old_message, 2: message, 3: message}


@pytest.mark.parametrize("with_keys", [False, True])
def test_peers_of_older_protocols_are_turned_away_at_every_door_and_others_go_on(
    start_daemon: Start, tmp_path: Path, with_keys: bool
) -> None:
    keyring = Keyring(tmp_path / "keys")
    daemon = start_daemon(keyring.section if with_keys else "")
    for door, (kind, parts) in DOORS.items():
        for version in (1, 2):
            with RawPeer(daemon.addresses[door]) as old:
                old.say(opening(version, kind) + PACKING[version](*parts))
                old.wait_for_the_end()
    camera_keys = keyring.of("camera") if with_keys else None
    with PushCamera(daemon.addresses["push"], "cam2", keys=camera_keys) as camera:
        camera.send(good_part(0))
    with FrameSender(daemon.addresses["acked"], "cam2", keys=camera_keys) as sender:
        sender.send(good_part(1))
        assert sender.flush(30)
    heard = verdicts_of(daemon, 2, keyring.of("subscriber") if with_keys else None)
    assert [verdict.camera for verdict in heard] == ["cam2", "cam2"]
    assert daemon.stop() == 0


def test_a_frame_in_the_bytes_of_zmtp_3_gets_its_verdict(start_daemon: Start) -> None:
    daemon = start_daemon()
    with RawPeer(daemon.addresses["push"]).greet("PUSH") as camera:
        camera.say(message(*frame("cam1", 7)))
        assert [verdict.seq for verdict in verdicts_of(daemon, 1)] == [7]


def test_a_message_whose_connection_zeromq_doesnt_know_is_received_like_any_other() -> None:
    with zmq.Context() as context, context.socket(zmq.PUSH) as camera:
        door = DoorSocket(context, zmq.PULL, "inproc://door")
        door.heard = set()
        camera.connect(door.address)
        camera.send_multipart([b"header", b"payload"])
        received = door.receive(2)
        assert received is not None
        assert (list(map(bytes, received[0])), received[1], door.heard) == ([b"header", b"payload"], 2, set())
        assert door.receive(2) is None
        door.close()


@pytest.fixture(scope="module")
def tcp_line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    with Line(tmp_path_factory.mktemp("line"), tcp=True) as running:
        yield running


KINDS = st.sampled_from(["PUSH", "DEALER", "SUB", "PULL", "REQ", "rubbish"])
VERSIONS = st.sampled_from([1, 2, 3])
PIECES = st.binary(max_size=40) | st.sampled_from([HELLO, b"PING", frame_header(), PNG, b"\1heatmap/", b"\0verdict/"])
SAID = st.lists(
    st.lists(PIECES, min_size=1, max_size=6).map(lambda parts: message(*parts))
    | st.lists(PIECES, min_size=1, max_size=3).map(lambda parts: old_message(*parts))
    | PIECES.map(lambda content: part(content, more=True))
    | st.binary(max_size=80),
    max_size=5,
).map(b"".join)


@settings(max_examples=60)
@given(st.data())
def test_whatever_bytes_come_to_a_door_the_next_peer_is_served(tcp_line: Line, data: st.DataObject) -> None:
    addresses = (tcp_line.push, tcp_line.acked, tcp_line.verdicts, tcp_line.replay_address)
    with RawPeer(data.draw(st.sampled_from(addresses))) as peer:
        greeting = data.draw(VERSIONS.flatmap(lambda version: KINDS.map(lambda kind: opening(version, kind))))
        peer.say(greeting[: data.draw(st.none() | st.integers(0, len(greeting)))])
        peer.listen(0.01)
        peer.say(data.draw(SAID))
        peer.listen(0.01)
    with Peer(zmq.DEALER, tcp_line.replay_address) as reader:
        assert reader.ask(ReplayRequest(id=9, first=0, limit=0).pack())
    with Peer(zmq.DEALER, tcp_line.acked) as sender:
        assert sender.ask(b"JUNK")[0] == b"RESET"
    before = len(tcp_line.judge.received)
    with Peer(zmq.PUSH, tcp_line.push) as camera:
        camera.send(frame_header(camera="last", seq=before), PNG)
        tcp_line.journal.wait_for(
            lambda: any(header.seq == before for header, _, _ in tcp_line.judge.received[before:])
        )
