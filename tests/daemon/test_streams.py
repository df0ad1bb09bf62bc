"""The rules of seq, by example and by invariant."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.errors import JournalError
from daemon.streams import UNLISTED_SILENCE_S, Placement, StreamLedger, is_implicit

SILENCE_NS = int(UNLISTED_SILENCE_S * 1e9)


@dataclass(frozen=True)
class State:
    stream: int
    last_seq: int
    updated_ns: int = 0


def ledger(
    *,
    max_cameras: int = 4,
    max_streams: int = 4,
    lookup: Callable[[str, int], State | None] = lambda _camera, _stream: None,
    recent: Callable[[str, int], list[State]] = lambda _camera, _most: [],
) -> StreamLedger:
    numbers = count()
    made = StreamLedger(
        max_cameras=max_cameras, max_streams=max_streams, draw=lambda: next(numbers), lookup=lookup, recent=recent
    )
    admit(made, "cam")
    return made


def admit(streams: StreamLedger, camera: str, *, at_ns: int = 0, listed: Collection[str] = ()) -> bool:
    return streams.admit(camera, now_ns=at_ns, listed=lambda name: name in listed)


def test_parts_in_sequence_are_new() -> None:
    streams = ledger()
    assert streams.place("cam", 7, 0) == Placement(stream=7, started=True)
    assert streams.place("cam", 7, 1) == Placement(stream=7)


def test_a_stream_may_begin_anywhere() -> None:
    assert ledger().place("cam", 7, 1_000_000) == Placement(stream=7, started=True)


def test_a_part_sent_again_is_a_duplicate() -> None:
    streams = ledger()
    streams.place("cam", 7, 5)
    assert streams.place("cam", 7, 5).duplicate
    assert streams.place("cam", 7, 3).duplicate


def test_a_gap_counts_the_parts_skipped() -> None:
    streams = ledger()
    streams.place("cam", 7, 5)
    assert streams.place("cam", 7, 9) == Placement(stream=7, missing=3)


def test_a_jump_of_two_to_the_sixty_is_one_gap() -> None:
    streams = ledger()
    streams.place("cam", 7, 0)
    assert streams.place("cam", 7, 2**60).missing == 2**60 - 1


def test_a_camera_without_streams_that_counts_anew_has_begun_a_new_stream() -> None:
    streams = ledger()
    first = streams.place("cam", None, 10)
    again = streams.place("cam", None, 0)
    assert is_implicit(first.stream)
    assert is_implicit(again.stream)
    assert again.started
    assert again.stream != first.stream


def test_two_senders_without_streams_become_two_streams_and_a_counted_conflict() -> None:
    streams = ledger()
    placements = [streams.place("cam", None, seq) for seq in (10, 5, 11, 6, 12, 7)]
    assert not any(placement.duplicate or placement.missing for placement in placements)
    assert len({placement.stream for placement in placements[:2]}) == 2
    assert [placement.stream for placement in placements[1::2]] == [placements[1].stream] * 3


def test_a_gap_after_a_restart_of_the_camera_is_not_taken_for_its_earlier_stream() -> None:
    streams = ledger()
    streams.place("cam", None, 100)
    for seq in range(50):
        placement = streams.place("cam", None, seq)
    assert streams.place("cam", None, 101) == Placement(stream=placement.stream, missing=51)


def test_two_senders_with_streams_are_a_conflict() -> None:
    streams = ledger()
    streams.place("cam", 1, 0)
    assert not streams.place("cam", 2, 0).conflict
    assert streams.place("cam", 1, 1).conflict
    assert streams.place("cam", 2, 1).conflict


def test_no_more_cameras_than_allowed_are_known() -> None:
    streams = ledger(max_cameras=2)
    assert admit(streams, "other")
    assert not admit(streams, "third")
    assert admit(streams, "cam")
    assert streams.cameras == ("cam", "other")


def test_a_listed_camera_has_the_place_of_the_one_silent_for_longest_that_is_not_listed_and_owes_nothing() -> None:
    streams = ledger(max_cameras=4)
    for at_ns, camera in enumerate(("busy", "heard again", "silent")):
        assert admit(streams, camera, at_ns=at_ns)
    streams.place("busy", 7, 0)
    assert admit(streams, "heard again", at_ns=3)
    listed = ("cam", "new", "newer", "newest")
    assert admit(streams, "new", at_ns=4, listed=listed)
    assert set(streams.cameras) == {"cam", "busy", "heard again", "new"}
    assert admit(streams, "newer", at_ns=4, listed=listed)
    assert set(streams.cameras) == {"cam", "busy", "newer", "new"}
    assert not admit(streams, "newest", at_ns=4, listed=listed)
    streams.settled("busy", 7)
    assert admit(streams, "newest", at_ns=4, listed=listed)


def test_a_camera_that_is_not_listed_has_only_a_place_that_was_silent_for_long() -> None:
    streams = ledger(max_cameras=1)
    assert not admit(streams, "other", at_ns=SILENCE_NS - 1)
    assert admit(streams, "other", at_ns=SILENCE_NS)
    assert streams.cameras == ("other",)


def test_cameras_of_an_earlier_run_that_have_not_been_heard_make_room_for_any() -> None:
    streams = StreamLedger(max_cameras=2, max_streams=4, draw=lambda: 0)
    streams.load({"new": [State(2, 2, updated_ns=2)], "old": [State(1, 1, updated_ns=1)]})
    assert admit(streams, "any")
    assert set(streams.cameras) == {"new", "any"}


def test_a_camera_that_returns_goes_on_where_the_journal_ended() -> None:
    kept = {"cam": [State(1, 8), State(2, 5)]}
    asked: list[tuple[str, int]] = []

    def recent(camera: str, most: int) -> list[State]:
        asked.append((camera, most))
        return kept.get(camera, [])

    streams = StreamLedger(max_cameras=1, max_streams=3, draw=lambda: 0, recent=recent)
    assert admit(streams, "other")
    assert admit(streams, "cam", listed=["cam"])
    assert asked == [("other", 3), ("cam", 3)]
    assert streams.place("cam", 1, 8).duplicate
    assert streams.place("cam", 2, 7) == Placement(stream=2, missing=1)


def test_no_camera_goes_for_one_whose_streams_the_journal_does_not_tell() -> None:
    def recent(camera: str, _most: int) -> list[State]:
        if camera == "new":
            raise JournalError("The disk has failed.")
        return []

    streams = ledger(max_cameras=1, recent=recent)
    with pytest.raises(JournalError):
        admit(streams, "new", listed=["new"])
    assert streams.cameras == ("cam",)


def test_a_camera_without_streams_needs_no_journal_for_a_new_one() -> None:
    def lookup(_camera: str, _stream: int) -> State | None:
        raise JournalError("The disk has failed.")

    streams = ledger(lookup=lookup)
    assert streams.place("cam", None, 3).started
    assert streams.place("cam", None, 0).started
    with pytest.raises(JournalError):
        streams.place("cam", 7, 0)


def test_an_old_stream_is_known_again_from_the_journal() -> None:
    streams = ledger(max_streams=1, lookup=lambda _camera, stream: State(1, 5) if stream == 1 else None)
    streams.place("cam", 2, 0)
    streams.settled("cam", 2)
    assert streams.place("cam", 1, 4).duplicate
    assert streams.place("cam", 1, 7) == Placement(stream=1, missing=1, conflict=True)


def test_a_restart_goes_on_where_the_journal_ended() -> None:
    streams = ledger()
    first = streams.place("cam", None, 3)
    after = ledger()
    after.load({"cam": [State(first.stream, 3)], "?": [State(9, 9)]})
    assert after.place("cam", None, 5) == Placement(stream=first.stream, missing=1)
    assert after.cameras == ("cam",)


def test_only_the_most_recent_cameras_are_loaded() -> None:
    streams = StreamLedger(max_cameras=1, max_streams=1, draw=lambda: 0)
    streams.load({"old": [State(1, 1, updated_ns=1)], "new": [State(2, 2, updated_ns=2)]})
    assert streams.cameras == ("new",)


def test_a_roll_back_goes_back_to_what_the_journal_holds() -> None:
    streams = ledger(lookup=lambda _camera, _stream: State(7, 1))
    for seq in range(2, 5):
        streams.place("cam", 7, seq)
    streams.roll_back("cam", 7)
    assert streams.place("cam", 7, 1).duplicate
    assert streams.place("cam", 7, 2) == Placement(stream=7)


def test_a_stream_of_which_nothing_was_journalled_begins_anew_after_a_roll_back() -> None:
    streams = ledger()
    streams.place("cam", 7, 3)
    streams.roll_back("cam", 7)
    assert streams.place("cam", 7, 3) == Placement(stream=7, started=True)


def test_a_stream_with_parts_under_way_is_never_forgotten() -> None:
    streams = ledger(max_streams=2)
    for stream in range(5):
        streams.place("cam", stream, 0)
    assert all(streams.place("cam", stream, 0).duplicate for stream in range(5))


def test_a_stream_of_both_doors_owes_what_is_left_of_it_after_a_roll_back_and_is_then_forgotten_like_others() -> None:
    streams = ledger(max_streams=1, lookup=lambda _camera, stream: State(7, 1) if stream == 7 else None)
    streams.place("cam", 7, 2)
    streams.place("cam", 7, 3)
    streams.roll_back("cam", 7)
    streams.place("cam", 7, 3)
    for stream in (8, 9):
        streams.settled("cam", 7)
        streams.place("cam", stream, 0)
        assert streams.place("cam", 7, 3).duplicate == (stream == 8)
        streams.settled("cam", stream)


Seqs = st.lists(st.integers(min_value=0, max_value=60), max_size=60)


@given(Seqs)
def test_every_part_of_a_stream_is_new_or_missing_exactly_once(seqs: list[int]) -> None:
    streams = ledger()
    told: list[int] = []
    for seq in seqs:
        placement = streams.place("cam", 7, seq)
        if not placement.duplicate:
            told += range(seq - placement.missing, seq + 1)
    assert told == (list(range(seqs[0], max(seqs) + 1)) if seqs else [])


@given(Seqs)
def test_a_camera_without_streams_has_no_duplicates(seqs: list[int]) -> None:
    streams = ledger(max_streams=3)
    identities = []
    for seq in seqs:
        placement = streams.place("cam", None, seq)
        assert not placement.duplicate
        identities.append((placement.stream, seq))
        streams.settled("cam", placement.stream)
    assert len(set(identities)) == len(seqs)


@given(Seqs, st.integers(min_value=0, max_value=59))
def test_a_restart_changes_no_later_decision(seqs: list[int], at: int) -> None:
    before, journal = ledger(), {}
    for seq in seqs[:at]:
        placement = before.place("cam", 7, seq)
        if not placement.duplicate:
            before.settled("cam", 7)
            journal[7] = seq
    after = ledger()
    after.load({"cam": [State(stream, last) for stream, last in journal.items()]})
    for seq in seqs[at:]:
        assert after.place("cam", 7, seq) == before.place("cam", 7, seq)


@pytest.mark.parametrize("door_stream", [7, None])
def test_memory_of_streams_is_bounded(door_stream: int | None) -> None:
    known: dict[int, int] = {}
    streams = ledger(
        max_streams=3, lookup=lambda _camera, stream: State(stream, known[stream]) if stream in known else None
    )
    for number in range(50):
        placement = streams.place("cam", door_stream if door_stream is None else number, 0)
        known[placement.stream] = 0
        streams.settled("cam", placement.stream)
    assert len(streams._cameras["cam"].streams) == 3
