"""Verdicts of one camera leave in the order of its parts."""

import threading
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from daemon.outcomes import Reason
from daemon.scheduler import Ticket
from daemon.sequencer import Sequencer
from tests.daemon.tickets import ticket


def settle(line: Sequencer, one: Ticket) -> bool:
    return line.settle(one, one.refused(Reason.SHED))


def registered(line: Sequencer, *tickets: Ticket) -> tuple[Ticket, ...]:
    for one in tickets:
        line.register(one)
    return tickets


def test_a_shed_part_waits_for_the_earlier_one_in_the_engine() -> None:
    line = Sequencer()
    first, second = registered(line, ticket(0), ticket(1))
    settle(line, second)
    assert line.take(0) == []
    settle(line, first)
    assert line.take(0) == [first, second]


def test_one_camera_doesnt_wait_for_another() -> None:
    line = Sequencer()
    _slow, quick = registered(line, ticket(0, "slow"), ticket(0, "quick"))
    settle(line, quick)
    assert line.take(0) == [quick]


def test_a_part_is_settled_once() -> None:
    line = Sequencer()
    (part,) = registered(line, ticket(0))
    assert line.settle(part, part.refused(Reason.SHUTTING_DOWN))
    assert not line.settle(part, part.refused(Reason.LATE))
    assert part.verdict is not None
    assert part.verdict.reason is Reason.SHUTTING_DOWN


def test_whatever_waits_leaves_together() -> None:
    line = Sequencer()
    parts = registered(line, ticket(0), ticket(0, "b"), ticket(1))
    for part in parts:
        settle(line, part)
    assert line.released == 3
    assert line.take(0) == list(parts)
    assert line.outstanding == 0


def test_taking_waits_for_a_verdict() -> None:
    line = Sequencer()
    (part,) = registered(line, ticket(0))
    taken: list[list[Ticket] | None] = []
    taker = threading.Thread(target=lambda: taken.append(line.take()))
    taker.start()
    settle(line, part)
    taker.join(30)
    assert taken == [[part]]


def test_a_closed_sequencer_ends_when_every_part_has_left() -> None:
    line = Sequencer()
    (part,) = registered(line, ticket(0))
    line.close()
    assert line.take(0) == []
    settle(line, part)
    assert line.take() == [part]
    assert line.take() is None


def test_forgetting_the_acked_door_lets_pushed_parts_behind_move_up() -> None:
    line = Sequencer()
    acked, pushed = registered(line, ticket(0, door="acked"), ticket(1))
    settle(line, pushed)
    assert line.forget_acked() == [acked]
    assert acked.forgotten
    assert line.take(0) == [pushed]
    assert not settle(line, acked)


def test_forgotten_parts_that_were_settled_already_dont_leave() -> None:
    line = Sequencer()
    (acked,) = registered(line, ticket(0, door="acked"))
    settle(line, acked)
    line.forget_acked()
    assert line.take(0) == []
    assert line.outstanding == 0


def test_more_than_may_wait_holds_whoever_asks_until_it_was_taken_or_forgotten() -> None:
    line = Sequencer()
    pushed, acked = registered(line, ticket(0, size=60), ticket(1, size=60, door="acked"))
    settle(line, pushed)
    line.wait_for_room(61)
    settle(line, acked)
    waiter = threading.Thread(target=line.wait_for_room, args=[61])
    waiter.start()
    assert line.forget_acked() == [acked]
    waiter.join(30)
    assert not waiter.is_alive()
    waiter = threading.Thread(target=line.wait_for_room, args=[60])
    waiter.start()
    assert line.take(0) == [pushed]
    waiter.join(30)
    assert not waiter.is_alive()


def test_a_closed_sequencer_holds_nobody() -> None:
    line = Sequencer()
    (part,) = registered(line, ticket(0, size=60))
    settle(line, part)
    line.close()
    line.wait_for_room(1)


def test_what_still_owes_a_verdict_is_known() -> None:
    line = Sequencer()
    first, second = registered(line, ticket(0), ticket(1))
    settle(line, second)
    assert line.unsettled() == [first]
    assert not line.wait_until_settled(0)
    settle(line, first)
    assert line.wait_until_settled(0)


@given(st.lists(st.sampled_from("ab"), max_size=30), st.randoms())
def test_every_order_of_settling_gives_the_order_of_arrival(cameras: list[str], random: Random) -> None:
    line = Sequencer()
    parts = [ticket(seq, camera) for seq, camera in enumerate(cameras)]
    registered(line, *parts)
    shuffled = list(parts)
    random.shuffle(shuffled)
    left: list[Ticket] = []
    for part in shuffled:
        settle(line, part)
        left += line.take(0) or []
    for camera in "ab":
        assert [part.seq for part in left if part.camera == camera] == [p.seq for p in parts if p.camera == camera]
    assert len(left) == len(parts)
