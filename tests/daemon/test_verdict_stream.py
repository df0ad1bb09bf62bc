"""`VerdictStream` against real doors that lose messages, crash, prune and empty their journal."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.client import (
    FrameSender,
    NotRunningError,
    OffsetsLostError,
    Outcome,
    VerdictStream,
)
from daemon.messages import Verdict
from daemon.replay import Replay
from daemon.verdict_stream import AHEAD_LIMIT
from tests.daemon.line import PATIENCE_S, PNG, Line


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    with Line(tmp_path) as running:
        yield running


@pytest.fixture
def stream(line: Line) -> Iterator[VerdictStream]:
    with VerdictStream(line.verdicts, line.replay_address, from_offset=0, timeout=PATIENCE_S) as opened:
        yield opened


def send(line: Line, count: int, camera: str = "left") -> None:
    with FrameSender(line.acked, camera) as sender:
        for _ in range(count):
            sender.send(PNG)
        assert sender.flush(PATIENCE_S)


def take(stream: VerdictStream, count: int) -> list[int | None]:
    return [next(stream).offset for _ in range(count)]


def test_a_stream_from_an_offset_replays_what_was_and_goes_on_live(line: Line, stream: VerdictStream) -> None:
    send(line, 30)
    assert take(stream, 30) == list(range(30))
    send(line, 30)
    assert take(stream, 30) == list(range(30, 60))
    assert stream.position == 60


def test_a_stream_without_an_offset_begins_with_the_next_verdict(line: Line) -> None:
    send(line, 3)
    with VerdictStream(line.verdicts, line.replay_address) as stream:
        assert stream.next(0.01) is None
        while stream.position is None:
            assert stream.next(0.01) is None
        send(line, 2)
        assert take(stream, 2) == [3, 4]


def test_verdicts_that_were_never_published_are_replayed_in_their_place(line: Line, stream: VerdictStream) -> None:
    send(line, 2)
    assert take(stream, 2) == [0, 1]
    line.silent = True
    send(line, 5)
    line.silent = False
    send(line, 1)
    assert take(stream, 6) == list(range(2, 8))
    assert stream.replayed >= 5


def test_the_last_verdict_is_not_missed_when_nothing_follows_it(line: Line, stream: VerdictStream) -> None:
    line.silent = True
    send(line, 1)
    assert take(stream, 1) == [0]


def test_a_stream_that_reads_late_gets_what_its_socket_dropped(line: Line, stream: VerdictStream) -> None:
    assert stream.next(0.05) is None
    send(line, 3000)
    assert take(stream, 3000) == list(range(3000))


def test_a_stream_outlives_a_restart_of_the_daemon(line: Line, stream: VerdictStream) -> None:
    for first in (0, 5, 10):
        send(line, 5)
        assert take(stream, 5) == list(range(first, first + 5))
        line.crash()
        line.start()


def test_a_line_controller_that_was_down_goes_on_from_its_position(line: Line, stream: VerdictStream) -> None:
    send(line, 5)
    take(stream, 3)
    send(line, 5)
    with VerdictStream(line.verdicts, line.replay_address, from_offset=stream.position, timeout=PATIENCE_S) as later:
        assert take(later, 7) == list(range(3, 10))


def test_cameras_are_filtered_without_a_gap(line: Line) -> None:
    cameras = ["right"]
    with VerdictStream(
        line.verdicts, line.replay_address, from_offset=0, cameras=cameras, timeout=PATIENCE_S
    ) as stream:
        for camera in ("left", "right", "left", "right"):
            send(line, 2, camera)
        assert take(stream, 4) == [2, 3, 6, 7]
        assert stream.position == 8


def test_pruned_offsets_are_an_error_in_their_place_and_the_stream_goes_on(line: Line, stream: VerdictStream) -> None:
    line.silent = True
    send(line, 10)
    line.journal.pruned = 4
    with pytest.raises(OffsetsLostError, match="0 to 3") as caught:
        next(stream)
    assert (caught.value.first, caught.value.next, caught.value.emptied) == (0, 4, False)
    assert take(stream, 6) == list(range(4, 10))


def test_lost_offsets_can_be_events_instead_of_errors(line: Line) -> None:
    lost: list[OffsetsLostError] = []
    send(line, 5)
    line.journal.pruned = 2
    with VerdictStream(
        line.verdicts, line.replay_address, from_offset=0, timeout=PATIENCE_S, on_lost=lost.append
    ) as stream:
        assert take(stream, 3) == [2, 3, 4]
    assert [(error.first, error.next) for error in lost] == [(0, 2)]


def test_an_emptied_journal_is_an_error_and_its_new_verdicts_are_delivered(line: Line, stream: VerdictStream) -> None:
    send(line, 10)
    assert take(stream, 10) == list(range(10))
    line.crash()
    line.journal.verdicts.clear()
    line.start()
    send(line, 3)
    with pytest.raises(OffsetsLostError, match="emptied") as caught:
        next(stream)
    assert (caught.value.emptied, caught.value.next) == (True, 0)
    assert take(stream, 3) == [0, 1, 2]


def test_a_journal_emptied_after_its_first_verdict_is_noticed(line: Line, stream: VerdictStream) -> None:
    send(line, 1)
    assert take(stream, 1) == [0]
    line.journal.verdicts.clear()
    with pytest.raises(OffsetsLostError, match="emptied"):
        next(stream)
    send(line, 1)
    assert take(stream, 1) == [0]


def test_an_emptied_journal_that_has_grown_further_than_before_is_noticed(line: Line, stream: VerdictStream) -> None:
    send(line, 3)
    assert take(stream, 3) == [0, 1, 2]
    line.crash()
    line.journal.verdicts.clear()
    line.silent = True
    line.start()
    send(line, 5, "right")
    with pytest.raises(OffsetsLostError, match="emptied"):
        next(stream)
    assert take(stream, 5) == [0, 1, 2, 3, 4]


def test_a_stream_without_verdicts_raises_after_its_timeout_and_can_be_read_on(line: Line) -> None:
    with VerdictStream(line.verdicts, line.replay_address, from_offset=0, timeout=0.05) as stream:
        with pytest.raises(TimeoutError):
            next(stream)
        send(line, 1)
        stream.timeout = PATIENCE_S
        assert take(stream, 1) == [0]


def test_a_verdict_without_an_offset_is_yielded_as_it_comes(line: Line, stream: VerdictStream) -> None:
    send(line, 1)
    assert take(stream, 1) == [0]
    unjournalled = Verdict(
        camera="left", stream=1, seq=1, verdict=line.journal.verdicts[0].verdict, captured_ns=0, received_ns=0
    )
    line.publish(unjournalled)
    assert next(stream) == unjournalled
    assert stream.position == 1


def test_a_replay_that_fails_for_a_while_delays_but_loses_nothing(line: Line, stream: VerdictStream) -> None:
    line.journal.failing = True
    line.silent = True
    send(line, 3)
    assert stream.next(0.2) is None
    line.journal.failing = False
    assert take(stream, 3) == [0, 1, 2]


def passed(seq: int) -> Verdict:
    return Verdict(camera="left", stream=1, seq=seq, verdict=Outcome.PASS, captured_ns=0, received_ns=0)


def publish(line: Line, stream: VerdictStream, count: int) -> None:
    """Publish verdicts that `stream` has received when this returns, though it may hand out none of them.

    One without an offset follows each batch, and is handed out as it comes.
    """
    for _ in range(0, count, 50):
        for _ in range(50):
            line.publish(line.journal.append(passed(len(line.journal.verdicts))))
        line.publish(passed(-1))
        assert next(stream).offset is None


@contextlib.contextmanager
def replay_at(address: str, line: Line) -> Iterator[None]:
    replay = Replay(line.context, address, line.journal)
    replay.start()
    try:
        yield
    finally:
        replay.stop()


def wait_for_subscription(line: Line, stream: VerdictStream) -> None:
    line.publish(passed(-1))
    while stream.next(0.01) is None:
        line.publish(passed(-1))
    while stream.next(0.05) is not None:
        pass


def test_a_stream_that_cant_reach_replay_keeps_no_more_than_its_limit_and_loses_nothing(
    line: Line, tmp_path: Path
) -> None:
    with VerdictStream(line.verdicts, f"ipc://{tmp_path}/later", timeout=PATIENCE_S) as stream:
        wait_for_subscription(line, stream)
        publish(line, stream, 5000)
        assert stream.next(0.05) is None
        with replay_at(f"ipc://{tmp_path}/later", line):
            assert take(stream, 5000) == list(range(5000))
        assert stream.replayed >= 5000 - AHEAD_LIMIT


@pytest.mark.parametrize("from_offset", [None, 0])
def test_a_stream_whose_verdicts_wait_for_a_replay_that_never_answers_says_so_and_goes_on(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, from_offset: int | None
) -> None:
    monkeypatch.setattr("daemon.verdict_stream.REPLAY_SILENT_S", 0.2)
    send(line, 1)
    address = f"ipc://{tmp_path}/later"
    with VerdictStream(line.verdicts, address, from_offset=from_offset, timeout=0.02) as stream:
        wait_for_subscription(line, stream)
        for _ in range(2):
            with pytest.raises(NotRunningError, match=f"replay door at {address} has not answered") as told:
                read_until_told(line, stream)
            assert line.verdicts in str(told.value)
        stream.timeout = PATIENCE_S
        first, end = 1 if from_offset is None else from_offset, len(line.journal.verdicts)
        with replay_at(address, line):
            assert take(stream, end - first) == list(range(first, end))


def read_until_told(line: Line, stream: VerdictStream) -> None:
    for _ in range(1000):
        line.publish(line.journal.append(passed(len(line.journal.verdicts))))
        with contextlib.suppress(TimeoutError):
            pytest.fail(f"{next(stream)} was handed out, not knowing what came before it")


def test_a_replay_that_is_silent_while_no_verdict_waits_is_no_trouble(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.verdict_stream.REPLAY_SILENT_S", 0.0)
    with VerdictStream(line.verdicts, f"ipc://{tmp_path}/nobody", from_offset=0, timeout=PATIENCE_S) as stream:
        wait_for_subscription(line, stream)
        send(line, 20)
        assert take(stream, 20) == list(range(20))
        assert stream.next(0.05) is None
