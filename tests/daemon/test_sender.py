"""`FrameSender` against real doors that crash, restart, refuse and fall silent."""

import math
import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import msgpack
import numpy as np
import pytest
import zmq

from daemon.client import (
    BufferFullError,
    FrameSender,
    MessageError,
    SenderClosedError,
)
from daemon.messages import Verdict
from daemon.outcomes import Outcome, Reason
from daemon.protocol import ACK, FRAME, HELLO, WELCOME, Ack, Welcome
from tests.daemon.line import PATIENCE_S, PNG, Line, MemoryJournal


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    with Line(tmp_path) as running:
        yield running


def seqs(journal: MemoryJournal) -> list[int]:
    return [verdict.seq for verdict in journal.verdicts]


def test_every_frame_is_judged_once_and_in_order(tmp_path: Path) -> None:
    acknowledged: list[Verdict] = []
    # No heartbeat may be missed on a busy machine: frames would rightly be sent again.
    with (
        Line(tmp_path, heartbeat_ms=60_000) as line,
        FrameSender(line.acked, "left", on_ack=acknowledged.append) as sender,
    ):
        assert [sender.send(PNG, part=f"p{seq}") for seq in range(200)] == list(range(200))
        assert sender.flush(PATIENCE_S)
    assert seqs(line.journal) == list(range(200))
    assert acknowledged == line.journal.verdicts
    assert (sender.sent, sender.acknowledged, sender.dropped, sender.resent, sender.pending) == (200, 200, 0, 0, 0)


def test_frames_wait_for_a_daemon_that_starts_later(tmp_path: Path) -> None:
    with FrameSender(f"ipc://{tmp_path}/acked", "left") as sender:
        sender.send(PNG)
        with Line(tmp_path):
            assert sender.flush(PATIENCE_S)


def test_a_frame_resent_after_a_crash_is_judged_once(line: Line) -> None:
    line.judge.holding = True
    with FrameSender(line.acked, "left") as sender:
        for _ in range(20):
            sender.send(PNG)
        line.journal.wait_for(lambda: len(line.judge.held) == 8)
        line.crash()
        assert line.journal.verdicts == []
        line.start()
        assert sender.flush(PATIENCE_S)
        assert sender.resent == 8
    assert seqs(line.journal) == list(range(20))


def test_a_frame_journalled_but_not_acknowledged_before_a_crash_is_not_judged_again(line: Line) -> None:
    line.judge.acknowledging = False
    with FrameSender(line.acked, "left") as sender:
        for _ in range(20):
            sender.send(PNG)
        line.journal.wait_for(lambda: len(line.journal.verdicts) == 8)
        line.crash()
        line.start()
        assert sender.flush(PATIENCE_S)
    assert seqs(line.journal) == list(range(20))


def test_frames_are_sent_again_after_the_daemon_reset_all_sessions(line: Line) -> None:
    line.judge.refusing = True
    with FrameSender(line.acked, "left") as sender:
        sender.send(PNG)
        line.journal.wait_for(lambda: bool(line.judge.received))
        line.ingest.reset_all("journal_unavailable", 10)
        line.judge.refusing = False
        line.ingest.resume()
        assert sender.flush(PATIENCE_S)
    assert seqs(line.journal) == [0]


def test_a_sender_keeps_to_its_window_and_goes_on_when_it_opens(line: Line) -> None:
    line.judge.window = 0
    with FrameSender(line.acked, "left") as sender:
        sender.send(PNG)
        assert not sender.flush(0.05)
        assert line.judge.received == []
        line.judge.window = 2
        line.ingest.wake()
        assert sender.flush(PATIENCE_S)


def test_a_sender_notices_a_daemon_that_says_nothing_and_connects_again(line: Line) -> None:
    door = line.ingest.door
    answer = door.handle

    def say_nothing_until_hello(parts: list[memoryview], count: int) -> None:
        if bytes(parts[1]) == HELLO:
            door.handle = answer
            answer(parts, count)

    with FrameSender(line.acked, "left") as sender:
        sender.send(PNG)
        assert sender.flush(PATIENCE_S)
        door.handle = say_nothing_until_hello
        sender.send(PNG)
        assert sender.flush(PATIENCE_S)
    assert seqs(line.journal) == [0, 1]


def test_frames_are_sent_again_when_a_second_welcome_replaces_the_session() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    daemon = context.socket(zmq.ROUTER)
    daemon.rcvtimeo = int(PATIENCE_S * 1000)
    port = daemon.bind_to_random_port("tcp://127.0.0.1")
    sender = FrameSender(f"tcp://127.0.0.1:{port}", "left")
    sender.send(PNG)
    routing_id = daemon.recv_multipart()[0]
    for session in (b"session1", b"session2"):
        # An earlier connection's HELLO can be answered on the one that took its name.
        daemon.send_multipart([routing_id, WELCOME, Welcome(session=session, window=8, heartbeat_ms=9000).pack()])
        _, kind, of_session, *_ = daemon.recv_multipart()
        assert (kind, of_session) == (FRAME, session)
    assert sender.resent == 1
    sender.close()
    daemon.close(linger=0)
    context.term()


def test_an_acknowledgement_whose_verdict_cant_be_read_leaves_its_frame_kept() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    daemon = context.socket(zmq.ROUTER)
    daemon.rcvtimeo = int(PATIENCE_S * 1000)
    port = daemon.bind_to_random_port("tcp://127.0.0.1")
    told: queue.SimpleQueue[Verdict] = queue.SimpleQueue()
    sender = FrameSender(f"tcp://127.0.0.1:{port}", "left", on_ack=told.put)
    sender.send(PNG)
    sender.send(PNG)
    routing_id = daemon.recv_multipart()[0]
    daemon.send_multipart([routing_id, WELCOME, Welcome(session=b"session1", window=8, heartbeat_ms=60_000).pack()])
    verdict = Verdict(camera="left", stream=sender.stream, seq=1, verdict=Outcome.PASS, captured_ns=0, received_ns=0)
    for seq, wrong in ((0, {"camera": "../left"}), (1, {})):
        ack = Ack(
            session=b"session1",
            window=8,
            stream=sender.stream,
            seq=seq,
            offset=seq,
            duplicate=False,
            verdict={**verdict.to_map(), **wrong},
        )
        daemon.send_multipart([routing_id, ACK, ack.pack()])
    assert told.get(timeout=PATIENCE_S).seq == 1
    assert (sender.acknowledged, sender.pending) == (1, 1)
    sender.close()
    daemon.close(linger=0)
    context.term()


def test_a_full_buffer_blocks_its_caller_until_there_is_room(line: Line) -> None:
    line.judge.holding = True
    with FrameSender(line.acked, "left", buffer_frames=2) as sender:
        caller = threading.Thread(target=lambda: [sender.send(PNG) for _ in range(5)])
        caller.start()
        line.journal.wait_for(lambda: len(line.judge.held) == 2)
        assert sender.sent == 2
        line.judge.release()
        caller.join(PATIENCE_S)
        assert sender.flush(PATIENCE_S)
        assert sender.sent == 5


def test_a_full_buffer_raises_and_uses_no_seq_when_told_so(line: Line) -> None:
    line.judge.holding = True
    with FrameSender(line.acked, "left", buffer_frames=1, when_full="raise") as sender:
        sender.send(PNG)
        with pytest.raises(BufferFullError, match="1 frames"):
            sender.send(PNG)
        line.journal.wait_for(lambda: bool(line.judge.held))
        line.judge.release()
        assert sender.flush(PATIENCE_S)
        assert sender.send(PNG) == 1


def test_a_full_buffer_drops_the_oldest_waiting_frame_and_says_so_when_told_so(line: Line) -> None:
    line.judge.holding, line.judge.window = True, 1
    dropped: list[int] = []
    with FrameSender(line.acked, "left", buffer_frames=2, when_full="drop_oldest", on_drop=dropped.append) as sender:
        sender.send(PNG)
        line.journal.wait_for(lambda: bool(line.judge.held))
        for _ in range(3):
            sender.send(PNG)
        assert (dropped, sender.dropped) == ([1, 2], 2)
        line.judge.release()
        assert sender.flush(PATIENCE_S)
    assert seqs(line.journal) == [0, 3]
    assert sender.sent == sender.acknowledged + sender.dropped


def test_a_buffer_smaller_than_the_window_overruns_no_window_and_loses_track_of_no_part(line: Line) -> None:
    line.judge.holding = True
    dropped: list[int] = []
    acknowledged: list[Verdict] = []
    with FrameSender(
        line.acked,
        "left",
        buffer_frames=4,
        when_full="drop_oldest",
        on_ack=acknowledged.append,
        on_drop=dropped.append,
    ) as sender:
        for seq in range(8):
            sender.send(PNG)
            line.journal.wait_for(lambda: len(line.judge.held) == seq + 1)  # noqa: B023  (called at once)
        for _ in range(100):
            sender.send(PNG)
        assert not sender.flush(0.2)
        line.judge.release()
        assert sender.flush(PATIENCE_S)
    assert (line.ingest.door.counts.overruns, line.ingest.door.counts.resets, sender.resent) == (0, 0, 0)
    assert sorted([*dropped, *(verdict.seq for verdict in acknowledged)]) == list(range(108))
    assert seqs(line.journal)[:8] == list(range(8))


def test_threads_may_share_a_sender(line: Line) -> None:
    with FrameSender(line.acked, "left", buffer_frames=4) as sender:
        threads = [threading.Thread(target=lambda: [sender.send(PNG) for _ in range(50)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert sender.flush(PATIENCE_S)
    assert seqs(line.journal) == list(range(200))


def test_a_frame_is_sent_as_it_was_when_its_caller_reuses_the_memory(line: Line) -> None:
    picture = np.zeros((4, 6), np.uint8)
    with FrameSender(line.acked, "left") as sender:
        sender.send(picture)
        picture[:] = 255
        assert sender.flush(PATIENCE_S)
    header, payload, _ = line.judge.received[0]
    assert (header.encoding, header.shape, header.dtype, header.color) == ("raw", (4, 6), "u1", "mono")
    assert payload == bytes(24)


@pytest.mark.parametrize(
    ("shape", "dtype", "color", "sent_dtype"),
    [((3, 4), ">u2", "mono", "u2"), ((3, 4, 1), "u1", "mono", "u1"), ((3, 4, 3), "u1", "rgb", "u1")],
)
def test_pixels_of_every_layout_are_taken(
    line: Line, shape: tuple[int, ...], dtype: str, color: str, sent_dtype: str
) -> None:
    picture = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    with FrameSender(line.acked, "left") as sender:
        sender.send(picture[::-1])
        assert sender.flush(PATIENCE_S)
    header, payload, _ = line.judge.received[0]
    assert (header.shape, header.color, header.dtype) == (shape, color, sent_dtype)
    assert np.array_equal(np.frombuffer(payload, f"<{sent_dtype}").reshape(shape), picture[::-1])


def test_a_frame_above_the_daemons_limit_is_answered_too_large(tmp_path: Path) -> None:
    with Line(tmp_path, max_frame_bytes=1000) as line, FrameSender(line.acked, "left") as sender:
        sender.send(PNG + bytes(1_000_000))
        sender.send(PNG)
        assert sender.flush(PATIENCE_S)
        assert [verdict.reason for verdict in line.journal.verdicts] == [Reason.TOO_LARGE, None]


@pytest.mark.parametrize(
    ("payload", "fields"),
    [
        (b"neither PNG nor JPEG", {}),
        (PNG, {"part": ""}),
        (PNG, {"captured_ns": 1.5}),
        (np.zeros((2, 2), np.float32), {}),
        (np.zeros(4, np.uint8), {}),
        (PNG, {"v": 1}),
        (PNG, {"camera": "right"}),
        (PNG, {"stream": 8}),
        (PNG, {"seq": 3}),
        (PNG, {"temperature": math.nan}),
        (PNG, {"note": "x" * 5000}),
        (PNG, {"tags": {"a", "b"}}),
        (PNG, {"taken_at": msgpack.Timestamp(1)}),
        (PNG, {"note": "\ud800"}),
        (PNG, {"trigger": np.int64(5)}),
        (PNG, {"count": 2**64}),
    ],
)
def test_a_frame_that_breaks_the_format_is_refused_where_it_is_sent(
    line: Line, payload: bytes, fields: dict[str, object]
) -> None:
    dropped: list[int] = []
    line.judge.window = 0
    with FrameSender(line.acked, "left", buffer_frames=1, when_full="drop_oldest", on_drop=dropped.append) as sender:
        sender.send(PNG, part="before")
        with pytest.raises(MessageError):
            sender.send(payload, **fields)
        assert (sender.sent, sender.dropped, dropped) == (1, 0, [])
        line.judge.window = 8
        line.ingest.wake()
        assert sender.flush(PATIENCE_S)
        assert sender.send(PNG) == 1
        assert sender.flush(PATIENCE_S)
    assert [(verdict.seq, verdict.part) for verdict in line.journal.verdicts] == [(0, "before"), (1, None)]


def test_a_closed_sender_says_so_and_frees_who_waits(line: Line) -> None:
    line.judge.holding = True
    sender = FrameSender(line.acked, "left", buffer_frames=1)
    sender.send(PNG)
    refused: list[Exception] = []

    def send_another() -> None:
        try:
            sender.send(PNG)
        except SenderClosedError as error:
            refused.append(error)

    caller = threading.Thread(target=send_another)
    caller.start()
    line.journal.wait_for(lambda: bool(line.judge.held))
    sender.close()
    caller.join(PATIENCE_S)
    assert len(refused) == 1
    with pytest.raises(SenderClosedError):
        sender.flush()
    assert sender.pending == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_of_the_callers_own_callback_is_told_to_the_caller(line: Line) -> None:
    def broken(_verdict: Verdict) -> None:
        raise ZeroDivisionError("callback")

    sender = FrameSender(line.acked, "left", on_ack=broken)
    sender.send(PNG)
    sender.send(PNG)
    with pytest.raises(SenderClosedError, match="ZeroDivisionError"):
        sender.flush(PATIENCE_S)
    sender.close()
