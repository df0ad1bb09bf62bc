"""The replay door, request by request."""

from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.messages import Region, Verdict, pack
from daemon.outcomes import Outcome
from daemon.protocol import REPLAY_REPLY_BYTES, ReplayReply, ReplayRequest, parse
from tests.daemon.line import Line, Peer

WELL = {"v": 1, "id": 1, "first": 0, "limit": 5}
REGION = Region(x=1, y=2, width=3, height=4, area=5.0, peak=6.0, centroid=(7.0, 8.0))


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    with Line(tmp_path) as running:
        yield running


@pytest.fixture
def client(line: Line) -> Iterator[Peer]:
    with Peer(zmq.DEALER, line.replay_address) as peer:
        yield peer


def fill(line: Line, count: int, regions: tuple[Region, ...] = ()) -> None:
    for seq in range(count):
        line.journal.append(
            Verdict(
                camera="left", stream=1, seq=seq, verdict=Outcome.PASS, captured_ns=0, received_ns=0, regions=regions
            )
        )


def ask(client: Peer, first: int, limit: int) -> ReplayReply:
    return parse(ReplayReply, client.ask(ReplayRequest(id=7, first=first, limit=limit).pack())[0])


def offsets(reply: ReplayReply) -> list[int]:
    return [verdict["offset"] for verdict in reply.verdicts]


def test_a_range_of_offsets_is_replayed(line: Line, client: Peer) -> None:
    fill(line, 10)
    reply = ask(client, 3, 4)
    assert (reply.id, reply.oldest, reply.next, offsets(reply)) == (7, 0, 10, [3, 4, 5, 6])
    assert Verdict.from_map(reply.verdicts[0]) == line.journal.verdicts[3]


def test_a_limit_of_zero_asks_for_positions_alone(line: Line, client: Peer) -> None:
    fill(line, 3)
    line.journal.pruned = 2
    reply = ask(client, 0, 0)
    assert (reply.oldest, reply.next, reply.verdicts) == (2, 3, [])


def test_an_offset_that_was_pruned_begins_with_the_oldest_kept(line: Line, client: Peer) -> None:
    fill(line, 9)
    line.journal.pruned = 5
    assert offsets(ask(client, 0, 2)) == [5, 6]


def test_an_offset_yet_to_come_is_an_empty_reply(line: Line, client: Peer) -> None:
    fill(line, 2)
    assert ask(client, 2, 100).verdicts == []
    assert ask(client, 2**62, 100).verdicts == []


def test_a_reply_is_cut_to_size_and_the_rest_can_be_asked_for(line: Line, client: Peer) -> None:
    fill(line, 900, regions=(REGION,) * 40)
    first = ask(client, 0, 1000)
    assert 0 < len(first.verdicts) < 900
    assert len(first.pack()) < 2 * REPLAY_REPLY_BYTES
    second = ask(client, len(first.verdicts), 1000)
    assert offsets(second)[0] == offsets(first)[-1] + 1


@pytest.mark.parametrize(
    "message",
    [
        [b""],
        [b"rubbish"],
        [b"\x80"],
        [pack({"v": 1, "id": 1, "first": -1, "limit": 5})],
        [pack({"v": 1, "id": 1, "first": 0, "limit": 10**9})],
        [pack({"v": 1, "id": 1, "first": True, "limit": 1})],
        [pack({"v": 3, "id": 1, "first": 0, "limit": 1})],
        [ReplayRequest(id=1, first=0, limit=1).pack(), b"more"],
    ],
)
def test_a_bad_request_is_answered_with_its_error(line: Line, client: Peer, message: list[bytes]) -> None:
    reply = parse(ReplayReply, client.ask(*message)[0])
    assert reply.error
    assert ask(client, 0, 1).error is None


def test_a_journal_that_fails_is_said_to_the_client(line: Line, client: Peer) -> None:
    line.journal.failing = True
    assert ask(client, 0, 1).error == "The disk has failed."
    line.journal.failing = False
    assert ask(client, 0, 1).error is None


def test_a_client_that_reads_no_reply_holds_up_no_other(line: Line, client: Peer) -> None:
    fill(line, 300, regions=(REGION,) * 40)
    with Peer(zmq.DEALER, line.replay_address) as greedy:
        greedy.socket.sndhwm = greedy.socket.rcvhwm = 1
        greedy.socket.sndtimeo = 200
        for number in range(200):
            try:
                greedy.send(ReplayRequest(id=number, first=0, limit=1000).pack())
            except zmq.Again:
                break
        assert offsets(ask(client, 0, 1)) == [0]


REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        name: st.integers(-1, 2**64 - 1) | st.text(max_size=3) | st.none() for name in ("v", "id", "first", "limit")
    },
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=40) | REQUESTS.map(lambda values: msgpack.packb({**WELL, **values})))
def test_any_request_has_exactly_one_reply(line: Line, client: Peer, message: bytes) -> None:
    reply = parse(ReplayReply, client.ask(message)[0])
    assert reply.error is not None or len(reply.verdicts) <= len(line.journal.verdicts)
    # Were the first one answered twice, this would be its second answer.
    assert ask(client, 0, 0).id == 7
