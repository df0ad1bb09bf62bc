"""Doors that ask for keys, with real sockets: who gets in, who doesn't, and what a change of keys does."""

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
import zmq

from daemon.authenticator import AllowLists, Authenticator
from daemon.door_socket import Access, DoorSocket
from daemon.errors import BindError
from daemon.keys import ClientKeys
from daemon.outcomes import Outcome
from daemon.protocol import ReplayRequest
from daemon.push_camera import PushCamera
from daemon.security import CAMERAS, SUBSCRIBERS
from daemon.sender import FrameSender
from daemon.verdict_stream import VerdictStream
from tests.daemon.keyring import Keyring
from tests.daemon.line import PATIENCE_S, PNG, Line, Peer, frame_header

# Long enough for a peer that were let in to have got something in: those who are known need milliseconds.
NOTHING_S = 0.7
NOTHING_MS, PATIENCE_MS = int(NOTHING_S * 1000), int(PATIENCE_S * 1000)


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "keys")


@pytest.fixture
def line(tmp_path: Path, keyring: Keyring, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    # A refused peer tries again as often.
    monkeypatch.setattr("daemon.sockets.HANDSHAKE_MS", 500)
    with Line(tmp_path, tcp=True, keys=keyring.door_keys) as line:
        yield line


def change_keys(line: Line, keyring: Keyring, *, reconnect: str = "") -> None:
    """Do what a reload does; `reconnect`: the list whose peers are cut off."""
    keys = keyring.door_keys
    assert line.authenticator is not None
    line.authenticator.allow(keys.lists)
    doors = {"": [], CAMERAS: line.ingest.doors, SUBSCRIBERS: [line.replay.door, line.publisher.door]}[reconnect]
    asked = [door.ask_for_key(keys.own.secret) for door in doors]
    line.ingest.wake()
    line.replay.wake()
    with line.publishing:
        line.publisher.update()
    assert all(done.wait(PATIENCE_S) for done in asked)


def test_known_keys_get_in_at_every_door(line: Line, keyring: Keyring) -> None:
    camera, subscriber = keyring.of("camera"), keyring.of("subscriber")
    with VerdictStream(line.verdicts, line.replay_address, from_offset=0, keys=subscriber) as stream:
        with PushCamera(line.push, "left", keys=camera) as pusher:
            pusher.send(PNG)
            assert stream.next(PATIENCE_S) is not None
        with FrameSender(line.acked, "right", keys=camera) as sender:
            sender.send(PNG)
            assert sender.flush(PATIENCE_S)
        verdict = stream.next(PATIENCE_S)
    assert verdict is not None
    assert (verdict.camera, verdict.verdict) == ("right", Outcome.PASS)


@pytest.mark.parametrize("who", ["a stranger", "a subscriber", "nobody", "one who expects another daemon"])
def test_at_the_cameras_doors_nothing_gets_in_from(line: Line, keyring: Keyring, who: str) -> None:
    keys = outsider(keyring, who, instead="subscriber")
    with Peer(zmq.PUSH, line.push, keys=keys) as pusher, Peer(zmq.DEALER, line.acked, keys=keys) as dealer:
        pusher.socket.sndtimeo = 0
        try_to_send(pusher, frame_header(), PNG)
        try_to_send(dealer, b"HELLO", msgpack.packb({"v": 1, "camera": "left", "stream": 1}))
        assert not dealer.socket.poll(NOTHING_MS)
    with FrameSender(line.acked, "right", keys=keyring.of("camera")) as sender:
        sender.send(PNG)
        assert sender.flush(PATIENCE_S)
    assert [header.camera for header, _, _ in line.judge.received] == ["right"]
    assert not line.judge.rejected


@pytest.mark.parametrize("who", ["a stranger", "a camera", "nobody", "one who expects another daemon"])
def test_at_the_subscribers_doors_nothing_gets_out_to(line: Line, keyring: Keyring, who: str) -> None:
    keys = outsider(keyring, who, instead="camera")
    with Peer(zmq.SUB, line.verdicts, keys=keys) as reader, Peer(zmq.DEALER, line.replay_address, keys=keys) as asker:
        reader.socket.subscribe(b"")
        try_to_send(asker, ReplayRequest(id=1, first=0, limit=10).pack())
        with VerdictStream(line.verdicts, line.replay_address, from_offset=0, keys=keyring.of("subscriber")) as stream:
            with FrameSender(line.acked, "right", keys=keyring.of("camera")) as sender:
                sender.send(PNG)
            assert stream.next(PATIENCE_S) is not None
        assert not reader.socket.poll(NOTHING_MS)
        assert not asker.socket.poll(0)
    assert line.publisher.subscribers <= 1


def outsider(keyring: Keyring, who: str, *, instead: str) -> ClientKeys | None:
    match who:
        case "nobody":
            return None
        case "a stranger":
            return keyring.new("stranger")
        case "one who expects another daemon":
            keyring.new("other-daemon")
            return keyring.of("camera" if instead == "subscriber" else "subscriber", server="other-daemon")
    return keyring.of(instead)


def try_to_send(peer: Peer, *parts: bytes) -> None:
    try:
        peer.socket.send_multipart(parts, zmq.NOBLOCK)
    except zmq.Again:
        assert not peer.socket.poll(0, zmq.POLLOUT)


def test_a_camera_whose_key_is_added_comes_in_without_being_restarted(line: Line, keyring: Keyring) -> None:
    with PushCamera(line.push, "left", keys=keyring.new("late")) as pusher:
        pusher.send(PNG)
        keyring.allow(CAMERAS, "camera", "late")
        change_keys(line, keyring)
        line.journal.wait_for(lambda: len(line.judge.received) == 1)


def test_a_camera_whose_key_is_taken_away_is_cut_off_and_others_go_on(line: Line, keyring: Keyring) -> None:
    other = keyring.new("other")
    keyring.allow(CAMERAS, "camera", "other")
    change_keys(line, keyring)
    with (
        PushCamera(line.push, "left", keys=keyring.of("camera"), timeout_s=0.1) as revoked,
        FrameSender(line.acked, "left", keys=keyring.of("camera"), flush_s=0) as revoked_sender,
        FrameSender(line.acked, "right", keys=other) as sender,
    ):
        revoked.send(PNG)
        revoked_sender.send(PNG)
        sender.send(PNG)
        line.journal.wait_for(lambda: len(line.journal.verdicts) == 3)
        assert revoked_sender.flush(PATIENCE_S)
        keyring.allow(CAMERAS, "other")
        change_keys(line, keyring, reconnect=CAMERAS)
        revoked.send(PNG)
        revoked_sender.send(PNG)
        sender.send(PNG)
        assert sender.flush(PATIENCE_S)
        assert not revoked_sender.flush(NOTHING_S)
        assert [verdict.camera for verdict in line.journal.verdicts].count("left") == 2


def test_a_subscriber_whose_key_is_taken_away_reads_no_more(line: Line, keyring: Keyring) -> None:
    keys = keyring.of("subscriber")
    with (
        VerdictStream(line.verdicts, line.replay_address, from_offset=0, keys=keys) as stream,
        FrameSender(line.acked, "right", keys=keyring.of("camera")) as sender,
    ):
        sender.send(PNG)
        assert stream.next(PATIENCE_S) is not None
        keyring.allow(SUBSCRIBERS)
        change_keys(line, keyring, reconnect=SUBSCRIBERS)
        sender.send(PNG)
        assert sender.flush(PATIENCE_S)
        assert stream.next(NOTHING_S) is None
        keyring.allow(SUBSCRIBERS, "subscriber")
        change_keys(line, keyring)
        verdict = stream.next(PATIENCE_S)
    assert verdict is not None
    assert verdict.offset == 1


def test_what_was_received_before_a_change_of_keys_stays_readable(keyring: Keyring) -> None:
    keys = keyring.door_keys
    keyring.new("daemon-2")
    with zmq.Context() as context:
        authenticator = Authenticator(context, keys.lists)
        authenticator.start()
        door = DoorSocket(
            context, zmq.PULL, "tcp://127.0.0.1:*", Access(allow_list=CAMERAS, secret_key=keys.own.secret)
        )
        with Peer(zmq.PUSH, door.address, keys=keyring.of("camera")) as camera:
            camera.send(b"frame")
            assert door.socket.poll(PATIENCE_MS)
            done = door.ask_for_key(keyring.of("daemon-2", server="daemon-2").own.secret)
            door.change_key_if_asked()
            assert done.is_set()
            assert door.socket.recv() == b"frame"
            camera.send(b"to the old key")
            assert not door.socket.poll(NOTHING_MS)
        with Peer(zmq.PUSH, door.address, keys=keyring.of("camera", server="daemon-2")) as camera:
            camera.send(b"to the new key")
            assert door.socket.recv() == b"to the new key"
        door.close()
        authenticator.stop()


def test_a_sender_takes_up_the_daemon_s_new_key_from_its_file_and_loses_no_frame(
    line: Line, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.sender.KEYS_READ_AGAIN_S", 0.3)
    known_as = keyring.folder / "known-as.pub"
    known_as.write_text((keyring.folder / "daemon.pub").read_text())
    keys = ClientKeys.read(keyring.folder / "camera.key", known_as)
    with FrameSender(line.acked, "left", keys=keys) as sender:
        sender.send(PNG)
        assert sender.flush(PATIENCE_S)
        keyring.new("daemon-2")
        keyring.server_key = keyring.folder / "daemon-2.key"
        change_keys(line, keyring, reconnect=CAMERAS)
        sender.send(PNG)
        assert not sender.flush(NOTHING_S)
        known_as.write_text((keyring.folder / "daemon-2.pub").read_text())
        assert sender.flush(PATIENCE_S)
    assert [verdict.seq for verdict in line.journal.verdicts] == [0, 1]


class BrokenLists(dict[str, dict[bytes, str]]):
    """Lists whose storage fails."""

    def get(self, *_arguments: object) -> dict[bytes, str]:
        raise OSError("the lists are gone")


def test_a_dead_authenticator_lets_nobody_in_and_leaves_those_who_are_in(
    line: Line, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", deaths.append)
    assert line.authenticator is not None
    with FrameSender(line.acked, "right", keys=keyring.of("camera")) as sender:
        sender.send(PNG)
        assert sender.flush(PATIENCE_S)
        lists: AllowLists = BrokenLists()
        line.authenticator.allow(lists)
        with (
            Peer(zmq.PUSH, line.push, keys=keyring.of("camera")) as first,
            Peer(zmq.PUSH, line.push, keys=keyring.of("camera")) as second,
        ):
            first.send(frame_header(), PNG)
            line.authenticator._thread.join(PATIENCE_S)
            assert not line.authenticator.alive
            assert [death.exc_type for death in deaths] == [OSError]
            second.send(frame_header(), PNG)
            sender.send(PNG)
            assert sender.flush(PATIENCE_S)
            assert not sender._closing.wait(NOTHING_S)
    assert [header.camera for header, _, _ in line.judge.received] == ["right", "right"]


def test_a_door_that_asks_for_keys_lets_nobody_in_before_there_is_an_authenticator(keyring: Keyring) -> None:
    keys = keyring.door_keys
    access = Access(allow_list=CAMERAS, secret_key=keys.own.secret)
    with zmq.Context() as context:
        door = DoorSocket(context, zmq.PULL, "tcp://127.0.0.1:*", access)
        with Peer(zmq.PUSH, door.address, keys=keyring.of("camera")) as camera:
            camera.send(b"frame")
            assert not door.socket.poll(NOTHING_MS)
            authenticator = Authenticator(context, keys.lists)
            authenticator.start()
            assert door.socket.poll(PATIENCE_MS)
        door.close()
        authenticator.stop()


def test_an_ipc_door_has_its_mode_and_keeps_it_through_a_change_of_keys(tmp_path: Path, keyring: Keyring) -> None:
    with Line(tmp_path, keys=keyring.door_keys, ipc_mode=0o620) as line:
        files = [Path(address.removeprefix("ipc://")) for address in (line.push, line.acked, line.verdicts)]
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o620}
        change_keys(line, keyring, reconnect=CAMERAS)
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o620}
        with FrameSender(line.acked, "right", keys=keyring.of("camera")) as sender:
            sender.send(PNG)
            assert sender.flush(PATIENCE_S)


def test_an_ipc_door_is_its_owner_s_alone_by_default(tmp_path: Path) -> None:
    with zmq.Context() as context:
        door = DoorSocket(context, zmq.PULL, f"ipc://{tmp_path}/door")
        assert stat.S_IMODE((tmp_path / "door").stat().st_mode) == 0o600
        door.close()


def test_an_ipc_door_can_belong_to_a_group(tmp_path: Path) -> None:
    import grp

    group = grp.getgrgid(os.getgroups()[-1] if os.getgroups() else os.getegid())
    with zmq.Context() as context:
        access = Access(ipc_mode=0o660, ipc_group=group.gr_name)
        door = DoorSocket(context, zmq.PULL, f"ipc://{tmp_path}/door", access)
        facts = (tmp_path / "door").stat()
        assert (stat.S_IMODE(facts.st_mode), facts.st_gid) == (0o660, group.gr_gid)
        door.close()
        with pytest.raises(BindError, match="no such group"):
            DoorSocket(context, zmq.PULL, f"ipc://{tmp_path}/other", Access(ipc_group="no-such-group"))
