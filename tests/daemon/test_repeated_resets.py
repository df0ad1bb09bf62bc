"""What the caller of a `FrameSender` hears of a daemon that refuses it again and again."""

import queue
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.client import FrameSender, SenderClosedError
from daemon.repeated_resets import RESETS_TOLD
from tests.daemon.line import PATIENCE_S, PNG, Line


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    with Line(tmp_path) as running:
        yield running


def test_a_sender_that_is_refused_again_and_again_tells_why_and_goes_on_when_that_ends(line: Line) -> None:
    line.judge.refusing = True
    refusals: queue.SimpleQueue[str] = queue.SimpleQueue()
    with FrameSender(line.acked, "left", on_refused=refusals.put) as sender:
        sender.send(PNG)
        told = refusals.get(timeout=PATIENCE_S)
        assert told == sender.refusal == "the daemon can't take frames now"
        line.judge.refusing = False
        assert sender.flush(PATIENCE_S)
        assert sender.refusal is None
    assert [verdict.seq for verdict in line.journal.verdicts] == [0]


def test_without_a_callback_a_refusal_that_goes_on_is_a_warning_in_the_log(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    line.judge.refusing = True
    with FrameSender(line.acked, "left", flush_s=0) as sender:
        sender.send(PNG)
        line.journal.wait_for(lambda: len(line.judge.received) == RESETS_TOLD + 2)
    assert [record.getMessage() for record in caplog.records] == [
        f"Camera left at {line.acked} is refused again and again, its frames wait: the daemon can't take frames now"
    ]


def test_one_restart_of_the_daemon_is_told_as_no_refusal(line: Line) -> None:
    refusals: list[str] = []
    with FrameSender(line.acked, "left", on_refused=refusals.append) as sender:
        for _ in range(2 * RESETS_TOLD):
            sender.send(PNG)
            assert sender.flush(PATIENCE_S)
            line.ingest.reset_all("the session was ended", 1)
            line.ingest.resume()
    assert (refusals, line.ingest.door.counts.resets >= 2 * RESETS_TOLD - 1) == ([], True)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_caller_may_stop_a_refused_sender(line: Line) -> None:
    def give_up(reason: str) -> None:
        raise RuntimeError(reason)

    line.judge.refusing = True
    sender = FrameSender(line.acked, "left", buffer_frames=1, on_refused=give_up)
    sender.send(PNG)
    with pytest.raises(SenderClosedError, match="can't take frames"):
        sender.send(PNG)
    assert sender.pending == 1
    sender.close()
