"""The acked door, message by message, as a camera author would speak it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.acked import MAX_PARTS, AckedDoor
from daemon.errors import MessageError
from daemon.intake import Answer, Moment, ReplyToken
from daemon.messages import FrameHeader, Verdict, pack
from daemon.outcomes import Outcome, Reason
from daemon.protocol import ACK, FRAME, HELLO, PING, PONG, RESET, WELCOME, Ack, Hello, Pong, Reset, Welcome, parse
from tests.daemon.line import PNG, Line, Peer, frame_header

STREAM = 0xBEEF
ROUTING_ID = b"left/beef"


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    with Line(tmp_path) as running:
        yield running


@pytest.fixture
def sender(line: Line) -> Iterator[Peer]:
    with Peer(zmq.DEALER, line.acked, ROUTING_ID) as peer:
        yield peer


def hello(peer: Peer) -> Welcome:
    kind, data = peer.ask(HELLO, Hello(camera="left", stream=STREAM).pack())
    assert kind == WELCOME
    return parse(Welcome, data)


def frame(seq: int, **fields: object) -> bytes:
    return frame_header(stream=STREAM, seq=seq, **fields)


def acknowledgement(peer: Peer) -> Ack:
    kind, data = peer.receive()
    assert kind == ACK
    return parse(Ack, data)


def reset(message: list[bytes]) -> Reset:
    assert message[0] == RESET
    return parse(Reset, message[1])


def test_a_sender_is_welcomed_with_a_session_and_a_window(sender: Peer) -> None:
    welcome = hello(sender)
    assert (len(welcome.session), welcome.window, welcome.heartbeat_ms, welcome.max_frame_bytes) == (8, 8, 200, 2**20)


def test_a_frame_is_acknowledged_with_its_journalled_verdict(line: Line, sender: Peer) -> None:
    session = hello(sender).session
    sender.send(FRAME, session, frame(7, part="4711"), PNG)
    ack = acknowledgement(sender)
    verdict = ack.unpack_verdict()
    assert isinstance(verdict, Verdict)
    assert (ack.session, ack.stream, ack.seq, ack.offset, ack.duplicate) == (session, STREAM, 7, 0, False)
    assert (verdict.part, verdict.verdict, verdict.offset) == ("4711", Outcome.PASS, 0)
    assert line.journal.verdicts == [verdict]


def test_nothing_is_acknowledged_before_the_verdict_is_journalled(line: Line, sender: Peer) -> None:
    line.judge.holding = True
    session = hello(sender).session
    sender.send(FRAME, session, frame(1), PNG)
    line.journal.wait_for(lambda: bool(line.judge.held))
    assert sender.ask(PING, session)[0] == PONG
    line.judge.release()
    assert acknowledgement(sender).seq == 1


def test_a_duplicate_is_answered_from_the_journal_and_not_judged_again(line: Line, sender: Peer) -> None:
    session = hello(sender).session
    sender.send(FRAME, session, frame(1), PNG)
    first = acknowledgement(sender)
    sender.send(FRAME, session, frame(1), PNG)
    second = acknowledgement(sender)
    assert (first.duplicate, second.duplicate) == (False, True)
    assert first.verdict == second.verdict
    assert len(line.journal.verdicts) == 1


def test_a_frame_resent_in_a_new_session_while_it_waits_is_acknowledged_once_there(line: Line, sender: Peer) -> None:
    line.judge.holding = True
    sender.send(FRAME, hello(sender).session, frame(1), PNG)
    line.journal.wait_for(lambda: bool(line.judge.held))
    session = hello(sender).session
    sender.send(FRAME, session, frame(1), PNG)
    line.journal.wait_for(lambda: len(line.judge.received) == 2)
    line.judge.release()
    assert acknowledgement(sender).session == session
    assert sender.ask(PING, session)[0] == PONG


def test_a_frame_of_an_ended_session_is_answered_with_reset_and_ignored(line: Line, sender: Peer) -> None:
    old = hello(sender).session
    session = hello(sender).session
    answer = reset(sender.ask(FRAME, old, frame(5), PNG))
    assert (answer.session, answer.reason) == (old, "unknown session")
    sender.send(FRAME, session, frame(1), PNG)
    assert acknowledgement(sender).seq == 1
    assert [header.seq for header, _, _ in line.judge.received] == [1]


def test_frames_of_a_sender_that_a_restarted_daemon_does_not_know_are_reset(line: Line, sender: Peer) -> None:
    session = hello(sender).session
    line.crash()
    line.start()
    assert reset(sender.ask(PING, session)).session == session
    sender.send(FRAME, hello(sender).session, frame(1), PNG)
    assert acknowledgement(sender).seq == 1


def test_a_new_connection_takes_over_the_name_of_the_dead_one(line: Line, sender: Peer) -> None:
    line.judge.holding = True
    sender.send(FRAME, hello(sender).session, frame(1), PNG)
    line.journal.wait_for(lambda: bool(line.judge.held))
    with Peer(zmq.DEALER, line.acked, ROUTING_ID) as successor:
        session = hello(successor).session
        successor.send(FRAME, session, frame(1), PNG)
        line.journal.wait_for(lambda: len(line.judge.received) == 2)
        line.judge.release()
        assert acknowledgement(successor).session == session
        assert line.ingest.senders == 1


def test_more_frames_than_the_window_end_the_session(line: Line, sender: Peer) -> None:
    line.judge.holding = True
    session = hello(sender).session
    for seq in range(9):
        sender.send(FRAME, session, frame(seq), PNG)
    assert "window" in reset(sender.receive()).reason
    assert line.ingest.door.counts.overruns == 1
    assert len(line.judge.received) == 8


def test_the_window_follows_the_intake(line: Line, sender: Peer) -> None:
    session = hello(sender).session
    for window in (0, 3):
        line.judge.window = window
        line.ingest.wake()
        kind, of_session, data = sender.receive()
        assert (kind, of_session, parse(Pong, data).window) == (PONG, session, window)


def test_a_refused_frame_stays_with_its_sender(line: Line, sender: Peer) -> None:
    session = hello(sender).session
    line.judge.refusing = True
    assert reset(sender.ask(FRAME, session, frame(1), PNG)).session == session
    line.judge.refusing = False
    sender.send(FRAME, hello(sender).session, frame(1), PNG)
    assert acknowledgement(sender).duplicate is False


def test_a_reset_of_all_ends_sessions_and_refuses_new_ones_until_resume(line: Line, sender: Peer) -> None:
    session = hello(sender).session
    line.ingest.reset_all("journal_unavailable", 250)
    answer = reset(sender.receive())
    assert (answer.reason, answer.retry_ms, answer.session) == ("journal_unavailable", 250, session)
    greeting = Hello(camera="left", stream=STREAM).pack()
    assert reset(sender.ask(HELLO, greeting)).reason == "journal_unavailable"
    assert reset(sender.ask(FRAME, session, frame(1), PNG)).reason == "journal_unavailable"
    line.ingest.resume()
    hello(sender)
    assert line.judge.received == []


def test_a_session_that_was_ended_and_allowed_again_at_once_is_still_ended(line: Line, sender: Peer) -> None:
    session = hello(sender).session
    line.ingest.reset_all("journal_unavailable", 250)
    line.ingest.resume()
    assert reset(sender.receive()).session == session


def test_a_silent_session_expires(line: Line, sender: Peer) -> None:
    hello(sender)
    with Peer(zmq.DEALER, line.acked) as witness:
        # Each question makes the thread look at its sessions; the answers take as long as the sockets do.
        while line.ingest.senders:
            witness.ask(b"TIME?")
    assert line.ingest.door.counts.expired == 1


def test_no_more_senders_than_the_limit_are_welcomed(tmp_path: Path) -> None:
    with (
        Line(tmp_path, max_sessions=1, heartbeat_ms=60_000) as line,
        Peer(zmq.DEALER, line.acked, ROUTING_ID) as first,
    ):
        hello(first)
        with Peer(zmq.DEALER, line.acked, b"right/1") as second:
            refusal = reset(second.ask(HELLO, Hello(camera="right", stream=1).pack()))
            assert refusal.reason == "too many senders"
        hello(first)


def test_a_sender_that_reads_nothing_loses_its_session_and_holds_up_no_other(line: Line, sender: Peer) -> None:
    with Peer(zmq.DEALER, line.acked, b"right/1") as deaf:
        deaf.socket.rcvhwm = 1
        session = parse(Welcome, deaf.ask(HELLO, Hello(camera="right", stream=1).pack())[1]).session
        while not line.ingest.door.counts.unsent:
            for _ in range(1000):
                deaf.send(PING, session)
        sender.send(FRAME, hello(sender).session, frame(1), PNG)
        assert acknowledgement(sender).seq == 1


@pytest.mark.parametrize(
    "message",
    [
        [b""],
        [b"JUNK"],
        [b"\xff" * 300_000],
        [HELLO],
        [HELLO, b"rubbish"],
        [HELLO, pack({"v": 2, "camera": "left", "stream": STREAM})],
        [HELLO, pack({"v": 1, "camera": "left", "stream": -1})],
        [HELLO, pack({"v": 1, "camera": "right", "stream": STREAM})],
        [HELLO, Hello(camera="left", stream=STREAM).pack(), b"more"],
        [FRAME],
        [FRAME, b"12345678"],
        [PING],
        [ACK, b"12345678"],
        [WELCOME, b"\x80"],
        [b"part"] * 50,
    ],
)
def test_a_message_outside_the_protocol_is_reset_and_counted(line: Line, sender: Peer, message: list[bytes]) -> None:
    hello(sender)
    assert reset(sender.ask(*message)).reason.startswith("malformed")
    assert line.ingest.door.counts.malformed == 1
    hello(sender)
    assert line.judge.received == []


@pytest.mark.parametrize(
    ("header", "payload", "reason"),
    [
        (frame(1, encoding="bmp"), [PNG], Reason.MALFORMED),
        (frame(1), [], Reason.MALFORMED),
        (frame(1), [PNG, PNG], Reason.MALFORMED),
        (frame(1), [bytes(2**20 + 1)], Reason.TOO_LARGE),
        (frame(1, encoding="raw", shape=[9, 9]), [PNG], Reason.BAD_GEOMETRY),
    ],
)
def test_a_bad_frame_is_acknowledged_as_not_inspected(
    line: Line, sender: Peer, header: bytes, payload: list[bytes], reason: Reason
) -> None:
    sender.send(FRAME, hello(sender).session, header, *payload)
    verdict = acknowledgement(sender).unpack_verdict()
    assert verdict is not None
    assert (verdict.seq, verdict.verdict, verdict.reason) == (1, Outcome.NOT_INSPECTED, reason)
    assert line.journal.verdicts == [verdict]


@pytest.mark.parametrize(
    "header",
    [
        b"rubbish",
        frame_header(seq=1),
        frame_header(stream=STREAM + 1, seq=1),
        frame_header(camera="right", stream=STREAM, seq=1),
        frame(-1),
    ],
)
def test_a_frame_that_states_no_identity_of_its_session_is_reset(line: Line, sender: Peer, header: bytes) -> None:
    answer = reset(sender.ask(FRAME, hello(sender).session, header, PNG))
    assert answer.reason.startswith("malformed")
    assert (line.judge.received, line.judge.rejected) == ([], [])


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([ROUTING_ID, b"right/1", b""]),
            st.sampled_from([HELLO, FRAME, PING, ACK, b"JUNK", b""]),
            st.lists(
                st.sampled_from([Hello(camera="left", stream=STREAM).pack(), frame(1), b"SESSION!", PNG, b""])
                | st.binary(max_size=12),
                max_size=5,
            ),
        ),
        max_size=8,
    )
)
def test_no_sequence_of_messages_raises_or_leaves_more_than_its_sessions(
    messages: list[tuple[bytes, bytes, list[bytes]]],
) -> None:
    sent: list[list[bytes]] = []

    def send(parts: list[bytes]) -> bool:
        sent.append(parts)
        return True

    intake = TakesAll()
    door = AckedDoor(intake, send, max_window=2, max_sessions=2, heartbeat_ms=60_000, max_frame_bytes=100)
    for number, (routing_id, kind, rest) in enumerate(messages, 1):
        session = next((parse(Welcome, data).session for _, of, *_, data in reversed(sent) if of == WELCOME), b"")
        parts = [routing_id, kind, *(session if part == b"SESSION!" else part for part in rest)]
        door.handle([memoryview(part) for part in parts[:MAX_PARTS]], len(parts))
        # Each message is answered, or handed over as a part that gets its verdict; never both, never neither.
        assert len(sent) + intake.taken == number
        door.expire()
        door.tell_windows()
        door.reset_ended()
    assert door.sessions <= 2
    assert all(parts[1] in (WELCOME, RESET, PONG) for parts in sent)


def test_where_all_places_are_taken_a_newcomer_has_that_of_the_sender_silent_for_longest() -> None:
    kinds: list[tuple[bytes, bytes]] = []

    def send(parts: list[bytes]) -> bool:
        kinds.append((parts[0], parts[1]))
        return True

    door = AckedDoor(TakesAll(), send, max_window=2, max_sessions=2, heartbeat_ms=20, max_frame_bytes=100)

    def hello(camera: str) -> bytes:
        greeting = Hello(camera=camera, stream=1)
        door.handle([memoryview(part) for part in (greeting.routing_id, HELLO, greeting.pack())], 3)
        return greeting.routing_id

    for camera in ("first", "second"):
        hello(camera)
    # Nobody looks for sessions to expire: only a newcomer makes room, once a heartbeat is overdue.
    hello("third")
    while kinds[-1] == (b"third/1", RESET):
        hello("third")
    assert kinds[-1] == (b"third/1", WELCOME)
    assert (door.sessions, door.counts.displaced, door.counts.expired) == (2, 1, 0)
    door.handle([memoryview(part) for part in (b"first/1", PING, bytes(8))], 3)
    assert kinds[-1] == (b"first/1", RESET)
    hello("second")
    assert kinds[-1] == (b"second/1", WELCOME)


class TakesAll:
    """An intake that takes every frame and never judges one."""

    accepting = True
    window = 2
    taken = 0

    def receive(
        self, header: FrameHeader, payload: memoryview, reply: ReplyToken | None, received: Moment | None = None
    ) -> Answer:
        self.taken += 1
        return Answer.TAKEN

    def reject(
        self,
        header: FrameHeader | None,
        error: MessageError,
        reply: ReplyToken | None,
        received: Moment | None = None,
    ) -> Answer:
        self.taken += 1
        return Answer.TAKEN


def test_a_drain_stops_frames_but_lets_acknowledgements_leave(line: Line, sender: Peer) -> None:
    line.judge.holding = True
    session = hello(sender).session
    sender.send(FRAME, session, frame(1), PNG)
    line.journal.wait_for(lambda: bool(line.judge.held))
    line.ingest.drain()
    assert parse(Pong, sender.receive()[2]).window == 0
    sender.send(FRAME, session, frame(2), PNG)
    line.judge.release()
    assert acknowledgement(sender).seq == 1
    line.ingest.stop()
    assert reset(sender.receive()).reason == "shutting_down"
    assert len(line.judge.received) == 1
