"""The bounded queue: limits, fairness, batches, deadlines."""

import threading
import time
from collections import deque
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.messages import Verdict
from daemon.outcomes import Outcome, Reason
from daemon.scheduler import Lookahead, QueuePolicy, Scheduler, Taken, Ticket
from tests.daemon.tickets import ticket

ROOMY = QueuePolicy(frames=1000, frames_per_camera=1000, bytes=10**9)


def scheduler(policy: QueuePolicy = ROOMY) -> Scheduler:
    return Scheduler(policy, lambda waiting: waiting.recipe)


def names(tickets: tuple[Ticket, ...] | list[Ticket]) -> list[tuple[str, int]]:
    return [(one.camera, one.seq) for one in tickets]


def take(queue: Scheduler, most: int) -> Taken:
    taken = queue.take(most)
    assert taken is not None
    return taken


def test_a_free_engine_takes_what_waits() -> None:
    queue = scheduler()
    for seq in range(3):
        queue.offer(ticket(seq))
    assert names(take(queue, 8).batch) == [("cam1", 0), ("cam1", 1), ("cam1", 2)]
    assert queue.frames == queue.bytes == 0


def test_cameras_take_turns() -> None:
    queue = scheduler()
    for seq in range(4):
        queue.offer(ticket(seq, "busy"))
    queue.offer(ticket(0, "calm"))
    assert names(take(queue, 2).batch) == [("busy", 0), ("calm", 0)]
    assert names(take(queue, 2).batch) == [("busy", 1), ("busy", 2)]


def test_a_turn_is_kept_from_batch_to_batch() -> None:
    queue = scheduler()
    for seq in range(3):
        for camera in ("a", "b", "c"):
            queue.offer(ticket(seq, camera))
    taken = [names(take(queue, 2).batch) for _ in range(3)]
    assert taken == [[("a", 0), ("b", 0)], [("c", 0), ("a", 1)], [("b", 1), ("c", 1)]]


def test_a_batch_holds_only_frames_that_share_an_extractor() -> None:
    queue = scheduler()
    queue.offer(ticket(0, "a", recipe="caps"))
    queue.offer(ticket(0, "b", recipe="pins"))
    queue.offer(ticket(1, "a", recipe="caps"))
    assert names(take(queue, 8).batch) == [("a", 0), ("a", 1)]
    assert names(take(queue, 8).batch) == [("b", 0)]


def test_frames_of_one_camera_never_overtake_one_another() -> None:
    queue = scheduler()
    for seq, recipe in enumerate(("caps", "pins", "caps")):
        queue.offer(ticket(seq, recipe=recipe))
    assert [names(take(queue, 8).batch) for _ in range(3)] == [[("cam1", 0)], [("cam1", 1)], [("cam1", 2)]]


def test_a_full_queue_sheds_the_oldest_of_the_camera_with_most_waiting() -> None:
    queue = scheduler(replace(ROOMY, frames=3))
    queue.offer(ticket(0, "calm"))
    queue.offer(ticket(0, "busy"))
    queue.offer(ticket(1, "busy"))
    assert names(queue.offer(ticket(2, "busy"))) == [("busy", 0)]
    assert names(queue.offer(ticket(1, "calm"))) == [("calm", 0)]


def test_a_camera_has_a_limit_of_its_own() -> None:
    queue = scheduler(replace(ROOMY, frames_per_camera=2))
    shed = [names(queue.offer(ticket(seq))) for seq in range(4)]
    assert shed == [[], [], [("cam1", 0)], [("cam1", 1)]]


def test_bytes_are_bounded_too() -> None:
    queue = scheduler(replace(ROOMY, bytes=100))
    queue.offer(ticket(0, "small", size=30))
    queue.offer(ticket(0, "large", size=40))
    assert names(queue.offer(ticket(1, "large", size=90))) == [("large", 0), ("small", 0)]
    assert queue.bytes == 90


def test_a_queue_that_is_just_full_of_bytes_sheds_nothing() -> None:
    queue = scheduler(replace(ROOMY, bytes=100))
    assert queue.offer(ticket(0, size=40)) == queue.offer(ticket(1, size=60)) == []
    assert names(queue.offer(ticket(2, size=1))) == [("cam1", 0)]


def test_bytes_are_shed_where_most_bytes_wait_and_frames_where_most_frames_do() -> None:
    queue = scheduler(replace(ROOMY, bytes=100))
    for seq in range(3):
        queue.offer(ticket(seq, "many", size=10))
    queue.offer(ticket(0, "heavy", size=60))
    assert names(queue.offer(ticket(3, "many", size=20))) == [("heavy", 0)]
    queue = scheduler(replace(ROOMY, frames=2, bytes=100))
    queue.offer(ticket(0, "heavy", size=80))
    queue.offer(ticket(0, "many", size=10))
    assert names(queue.offer(ticket(1, "many", size=10))) == [("many", 0)]


def test_a_blocking_queue_is_full_of_bytes_at_its_limit() -> None:
    queue = scheduler(replace(ROOMY, bytes=100, shed="block"))
    queue.offer(ticket(0, size=100))
    assert queue.full
    assert not queue.overfull
    queue.offer(ticket(1, size=100))
    assert queue.overfull


def test_a_blocking_queue_sheds_nothing_and_says_that_it_is_full() -> None:
    queue = scheduler(replace(ROOMY, frames=2, shed="block"))
    assert not queue.full
    assert queue.offer(ticket(0)) == queue.offer(ticket(1)) == []
    assert queue.full
    assert not queue.overfull
    assert queue.offer(ticket(2)) == queue.offer(ticket(3)) == []
    assert queue.overfull


def test_a_frame_past_its_deadline_is_late() -> None:
    queue = scheduler()
    queue.offer(ticket(0, max_age_ms=0))
    queue.offer(ticket(1, max_age_ms=60_000))
    taken = take(queue, 8)
    assert (names(taken.late), names(taken.batch)) == ([("cam1", 0)], [("cam1", 1)])


def test_a_frame_that_cant_be_finished_in_time_is_late() -> None:
    queue = scheduler()
    waiting = ticket(0, max_age_ms=10_000)
    waiting.received_monotonic_ns -= 9_000_000_000
    waiting.deadline_ns = waiting.received_monotonic_ns + 10_000_000_000
    queue.offer(waiting)
    taken = queue.take(8, ahead_ns=2_000_000_000)
    assert taken is not None
    assert names(taken.late) == [("cam1", 0)]


def test_a_fresh_frame_is_tried_however_slow_the_engine_was() -> None:
    queue = scheduler()
    queue.offer(ticket(0, max_age_ms=10_000))
    taken = queue.take(8, ahead_ns=3600 * 10**9)
    assert taken is not None
    assert names(taken.batch) == [("cam1", 0)]


def test_a_verdict_at_the_deadline_is_late_and_at_most_half_the_time_is_granted_to_what_is_ahead() -> None:
    waiting = ticket(0, max_age_ms=10_000)
    assert waiting.deadline_ns is not None
    assert waiting.is_late(waiting.deadline_ns, 0)
    assert not waiting.is_late(waiting.deadline_ns - 1, 0)
    second, for_ever = 1_000_000_000, 3600 * 10**9
    assert not waiting.is_late(waiting.received_monotonic_ns + 4 * second, for_ever)
    assert waiting.is_late(waiting.received_monotonic_ns + 6 * second, for_ever)


def test_the_lookahead_holds_the_slowest_of_late() -> None:
    ahead = Lookahead()
    assert ahead.ns == 0
    for ns in (100, 1000, 100):
        ahead.observe(ns)
    assert ahead.ns == 910
    for _ in range(100):
        ahead.observe(100)
    assert ahead.ns < 120


def test_late_frames_leave_even_when_nothing_else_waits() -> None:
    queue = scheduler()
    queue.offer(ticket(0, max_age_ms=0))
    assert take(queue, 8).batch == ()


def test_a_batch_may_be_held_back_until_it_is_full() -> None:
    queue = scheduler(replace(ROOMY, max_delay_ms=60_000))
    queue.offer(ticket(0))
    taken: list[Taken | None] = []
    taker = threading.Thread(target=lambda: taken.append(queue.take(2)))
    taker.start()
    queue.offer(ticket(1))
    taker.join(30)
    assert taken[0] is not None
    assert len(taken[0].batch) == 2


def test_a_frame_is_held_back_no_longer_than_its_time() -> None:
    queue = scheduler(replace(ROOMY, max_delay_ms=300))
    waiting = ticket(0)
    queue.offer(waiting)
    assert len(take(queue, 2).batch) == 1
    assert time.monotonic_ns() - waiting.received_monotonic_ns >= 300_000_000


def test_a_closed_queue_hands_out_what_waits_and_then_nothing() -> None:
    queue = scheduler(replace(ROOMY, max_delay_ms=60_000))
    queue.offer(ticket(0))
    queue.close()
    assert len(take(queue, 8).batch) == 1
    assert queue.take(8) is None


def test_closing_wakes_a_waiting_engine() -> None:
    queue = scheduler()
    taken: list[Taken | None] = []
    taker = threading.Thread(target=lambda: taken.append(queue.take(2)))
    taker.start()
    queue.close()
    taker.join(30)
    assert taken == [None]


def test_forgotten_tickets_leave_the_queue() -> None:
    queue = scheduler()
    kept, forgotten = ticket(0, "a"), ticket(0, "b")
    queue.offer(kept)
    queue.offer(forgotten)
    forgotten.forgotten = True
    queue.discard_forgotten()
    assert (queue.frames, queue.bytes) == (1, kept.size)
    assert names(take(queue, 8).batch) == [("a", 0)]


def test_the_longest_waiting_frame_is_known() -> None:
    queue = scheduler()
    assert queue.oldest_received_ns() is None
    first = ticket(0)
    queue.offer(first)
    queue.offer(ticket(0, "other"))
    assert queue.oldest_received_ns() == first.received_monotonic_ns


def test_the_verdict_on_a_part_that_was_not_inspected_says_all_that_is_known_of_it() -> None:
    part = ticket(5, "left", door="acked")
    part.count = 3
    part.header = part.header.model_copy(update={"trigger": 9, "part": "bolt"}) if part.header is not None else None
    verdict = part.refused(Reason.SHED, "the queue was full")
    assert verdict == Verdict(
        camera="left",
        stream=1,
        seq=5,
        count=3,
        verdict=Outcome.NOT_INSPECTED,
        reason=Reason.SHED,
        detail="the queue was full",
        captured_ns=5,
        received_ns=part.received_ns,
        trigger=9,
        part="bolt",
        recipe="caps",
    )
    part.header = None
    assert part.refused(Reason.MISSING) == replace(verdict, reason=Reason.MISSING, detail=None, trigger=None, part=None)


Offers = st.lists(st.tuples(st.sampled_from("abc"), st.integers(min_value=1, max_value=50)), max_size=80)


@given(Offers, st.integers(min_value=1, max_value=5), st.data())
def test_every_ticket_leaves_exactly_once_in_its_cameras_order(
    offers: list[tuple[str, int]], most: int, data: st.DataObject
) -> None:
    policy = QueuePolicy(frames=8, frames_per_camera=5, bytes=120)
    queue = scheduler(policy)
    left: list[Ticket] = []
    offered: dict[str, deque[int]] = {camera: deque() for camera in "abc"}
    for seq, (camera, size) in enumerate(offers):
        offered[camera].append(seq)
        left += queue.offer(ticket(seq, camera, size=size))
        assert queue.frames <= policy.frames
        assert queue.bytes <= policy.bytes
        if queue.frames and data.draw(st.booleans()):
            left += take(queue, most).batch
    left += queue.take_all()
    assert queue.frames == queue.bytes == 0
    for camera, seqs in offered.items():
        assert [one.seq for one in left if one.camera == camera] == list(seqs)


@pytest.mark.parametrize("count", [1, 5])
def test_taking_all_gives_the_oldest_first(count: int) -> None:
    queue = scheduler()
    for seq in range(count):
        queue.offer(ticket(seq, f"cam{seq}"))
    assert [one.seq for one in queue.take_all()] == list(range(count))
