"""The push door, over real sockets: every message becomes a part or a rejection, and none stops the thread."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.errors import BindError
from daemon.ingest import Ingest
from daemon.outcomes import Reason
from tests.daemon.line import PNG, Line, Peer, frame_header


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    with Line(tmp_path) as running:
        yield running


@pytest.fixture
def camera(line: Line) -> Iterator[Peer]:
    with Peer(zmq.PUSH, line.push) as peer:
        yield peer


def test_a_pushed_frame_is_handed_over_with_its_payload(line: Line, camera: Peer) -> None:
    camera.send(frame_header(seq=5, part="4711"), PNG)
    line.journal.wait_for(lambda: bool(line.judge.received))
    header, payload, reply = line.judge.received[0]
    assert (header.seq, header.part, payload, reply) == (5, "4711", PNG, None)


@pytest.mark.parametrize(
    ("parts", "identified", "reason"),
    [
        ([b""], False, Reason.MALFORMED),
        ([b"rubbish", PNG], False, Reason.MALFORMED),
        ([bytes(5000), PNG], False, Reason.MALFORMED),
        ([frame_header(v=9), PNG], False, Reason.MALFORMED),
        ([frame_header(camera="no such name!"), PNG], False, Reason.MALFORMED),
        ([frame_header(seq=-1), PNG], False, Reason.MALFORMED),
        ([frame_header()], True, Reason.MALFORMED),
        ([frame_header(), PNG, b"more", b"and more"], True, Reason.MALFORMED),
        ([frame_header(encoding="bmp"), PNG], True, Reason.MALFORMED),
        ([frame_header(captured_ns=1.5, encoding="bmp"), PNG], True, Reason.MALFORMED),
        ([frame_header(), bytes(2**20 + 1)], True, Reason.TOO_LARGE),
        ([frame_header(encoding="raw", shape=[-1, 4]), PNG], True, Reason.BAD_GEOMETRY),
        ([frame_header(encoding="raw", shape=[3, 3]), PNG], True, Reason.BAD_GEOMETRY),
    ],
)
def test_a_bad_message_is_rejected_with_its_reason_and_the_next_frame_is_taken(
    line: Line, camera: Peer, parts: list[bytes], identified: bool, reason: Reason
) -> None:
    camera.send(*parts)
    camera.send(frame_header(seq=99), PNG)
    line.journal.wait_for(lambda: bool(line.judge.received))
    [(header, error, reply)] = line.judge.rejected
    assert (header is not None, error.reason, reply) == (identified, reason, None)
    assert line.judge.received[0][0].seq == 99


def test_a_100_mb_header_is_cut_off_before_it_is_received_and_others_are_served(line: Line, camera: Peer) -> None:
    with Peer(zmq.PUSH, line.push) as hostile:
        hostile.send(bytes(100_000_000), PNG)
        for seq in range(3):
            camera.send(frame_header(seq=seq), PNG)
        line.journal.wait_for(lambda: len(line.judge.received) == 3)
    assert line.judge.rejected == []


def test_the_push_door_is_not_read_while_the_intake_accepts_nothing(line: Line, camera: Peer) -> None:
    line.judge.accepting = False
    line.ingest.wake()
    with Peer(zmq.DEALER, line.acked) as witness:
        camera.send(frame_header(seq=1), PNG)
        # The thread has gone round its loop when it answers on the other door.
        witness.ask(b"JUNK")
        witness.ask(b"JUNK")
        assert line.judge.received == []
        line.judge.accepting = True
        line.ingest.wake()
        line.journal.wait_for(lambda: len(line.judge.received) == 1)


def test_a_drain_hands_over_what_had_arrived_and_takes_nothing_after(line: Line, camera: Peer) -> None:
    camera.send(frame_header(seq=1), PNG)
    line.journal.wait_for(lambda: len(line.judge.received) == 1)
    line.ingest.drain()
    camera.send(frame_header(seq=2), PNG)
    with Peer(zmq.DEALER, line.acked) as witness:
        witness.ask(b"JUNK")
        witness.ask(b"JUNK")
    assert [header.seq for header, _, _ in line.judge.received] == [1]


def test_a_drain_hands_over_what_is_held_for_those_before_it(line: Line, camera: Peer) -> None:
    camera.send(frame_header(seq=1), PNG)
    camera.send(frame_header(seq=9), PNG)
    camera.send(frame_header(camera="right"), PNG)
    line.journal.wait_for(lambda: "right" in {header.camera for header, _, _ in line.judge.received})
    line.ingest.drain()
    assert [header.seq for header, _, _ in line.judge.received if header.camera == "left"] == [1, 9]


def test_a_frame_that_cant_be_inspected_keeps_its_place_among_those_that_wait(line: Line, camera: Peer) -> None:
    with Peer(zmq.PUSH, line.push) as newer:
        camera.send(frame_header(seq=1), PNG)
        line.journal.wait_for(lambda: len(line.journal.verdicts) == 1)
        line.judge.accepting = False
        line.ingest.wake()
        camera.send(frame_header(seq=2, encoding="bmp"), PNG)
        camera.send(frame_header(seq=3), PNG)
        newer.send(frame_header(seq=4, encoding="bmp"), PNG)
        newer.send(frame_header(seq=5), PNG)
        line.judge.accepting = True
        line.ingest.wake()
        line.journal.wait_for(lambda: len(line.journal.verdicts) == 5)
    assert [verdict.seq for verdict in line.journal.verdicts] == [1, 2, 3, 4, 5]


def test_a_port_in_use_is_a_bind_error_that_names_it(line: Line) -> None:
    first = Ingest(line.context, line.judge, push="tcp://127.0.0.1:0", acked="", **line.options)
    with pytest.raises(BindError, match=first.push_address):
        Ingest(line.context, line.judge, push="tcp://127.0.0.1:*", acked=first.push_address, **line.options)
    first.stop()
    assert not first.push_address.endswith((":0", ":*"))


HEADER_PIECES = st.sampled_from([frame_header(), frame_header(seq=9), frame_header(v=2), frame_header(encoding="bmp")])
DAMAGED_HEADERS = st.tuples(HEADER_PIECES, st.integers(0, 60), st.binary(max_size=4)).map(
    lambda drawn: drawn[0][: drawn[1]] + drawn[2] + drawn[0][drawn[1] + len(drawn[2]) :]
)

ANY_PART = HEADER_PIECES | DAMAGED_HEADERS | st.binary(max_size=20)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(HEADER_PIECES | DAMAGED_HEADERS | st.binary(max_size=20), min_size=1, max_size=4), max_size=30)
)
def test_every_message_at_the_push_door_is_received_or_rejected_once(
    line: Line, camera: Peer, messages: list[list[bytes]]
) -> None:
    before = len(line.judge.received) + len(line.judge.rejected)
    for parts in messages:
        camera.send(*parts)
    camera.send(frame_header(camera="last", seq=before), PNG)
    expected = before + len(messages) + 1
    line.journal.wait_for(
        lambda: (
            ("last", before) in {(header.camera, header.seq) for header, _, _ in line.judge.received}
            and len(line.judge.received) + len(line.judge.rejected) >= expected
        )
    )
    assert len(line.judge.received) + len(line.judge.rejected) == expected
