"""What leaves the journal, and in which order streams are remembered."""

import sqlite3
import time
from pathlib import Path

import pytest

from daemon.journal import VACUUMED_PAGES, Journal
from daemon.retention import NS_PER_DAY, Retention
from tests.daemon.journal_writer import verdict

DAY = NS_PER_DAY
LIMIT = 2**20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.mark.parametrize(
    "retention", [Retention(), Retention(max_age_days=10), Retention(max_bytes=LIMIT)], ids=["none", "age", "bytes"]
)
def test_nothing_leaves_that_is_neither_too_old_nor_too_much(path: Path, retention: Retention) -> None:
    with Journal(path, retention) as journal:
        journal.append([verdict(seq, received_ns=99 * DAY) for seq in range(5)])
        assert journal.prune(100 * DAY) == 0
        assert (journal.first_offset, len(journal.read(0, 10))) == (0, 5)


def test_many_expired_verdicts_leave_together(path: Path) -> None:
    with Journal(path, Retention(max_age_days=10)) as journal:
        journal.append([verdict(seq, received_ns=seq) for seq in range(300)])
        assert journal.prune(100 * DAY) == 300


def test_a_verdict_of_today_keeps_those_behind_it_whatever_their_time(path: Path) -> None:
    with Journal(path, Retention(max_age_days=2)) as journal:
        journal.append([verdict(seq, received_ns=time_ns) for seq, time_ns in enumerate((1 * DAY, 100 * DAY, 1 * DAY))])
        assert journal.prune(100 * DAY) == 1
        assert [one.seq for one in journal.read(0, 10)] == [1, 2]


def used_bytes(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
    connection.close()
    return int((pages - free) * size)


def test_no_more_leaves_than_the_size_asks_for(path: Path) -> None:
    with Journal(path, Retention(max_bytes=LIMIT)) as journal:
        for first in range(0, 8000, 500):
            journal.append([verdict(seq, detail="d" * 200) for seq in range(first, first + 500)])
            while journal.prune(0):
                pass
            if first >= 4000:
                assert 0.8 * LIMIT < used_bytes(path) <= LIMIT * 15 / 16
        assert journal.next_offset - journal.first_offset == len(journal.read(0, 10_000))


def test_pages_are_given_back_a_few_at_a_time_and_a_few_are_kept(path: Path) -> None:
    with Journal(path, Retention(max_age_days=1)) as journal:
        for first in range(0, 2000, 500):
            journal.append([verdict(seq, received_ns=0, detail="d" * 4000) for seq in range(first, first + 500)])
        journal.append([verdict(2000 + seq, received_ns=100 * DAY, detail="d" * 4000) for seq in range(500)])
        (before,) = journal._file.rows("PRAGMA page_count")[0]
        assert journal.prune(100 * DAY) == 2000
        (after,) = journal._file.rows("PRAGMA page_count")[0]
        # Pages that map others go with them.
        assert VACUUMED_PAGES <= before - after <= VACUUMED_PAGES + 2
        for _ in range(20):
            journal.prune(100 * DAY)
        (pages,), (free,) = (journal._file.rows(f"PRAGMA {name}")[0] for name in ("page_count", "freelist_count"))
        assert 0 < free <= pages / 16 + 1


def test_pages_that_are_free_already_drive_nobody_out(path: Path) -> None:
    with Journal(path, Retention(max_age_days=1)) as journal:
        journal.append([verdict(seq, received_ns=0, detail="d" * 4000) for seq in range(2000)])
        journal.append([verdict(2000 + seq, received_ns=100 * DAY, detail="d" * 4000) for seq in range(100)])
        assert journal.prune(100 * DAY) == 2000
    size = path.stat().st_size
    with Journal(path, Retention(max_bytes=size)) as journal:
        assert used_bytes(path) < size / 2
        assert journal.prune(100 * DAY) == 0


def order(journal: Journal) -> list[tuple[int, int]]:
    """Streams with their last seq, in the order of their last verdicts."""
    return [(state.stream, state.last_seq) for state in journal.streams()["left"]]


def write_a_stream_of_the_future(path: Path) -> None:
    """Leave stream 1 in a journal whose clock was far ahead when it was written."""
    with Journal(path) as journal:
        journal.append([verdict(0, stream=1)])
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE streams SET updated_ns = ?", (2**62,))
    connection.close()


def test_streams_of_one_batch_are_in_the_order_of_their_last_verdicts(path: Path) -> None:
    with Journal(path) as journal:
        journal.append([verdict(5, stream=1), verdict(0, stream=2), verdict(3, stream=1)])
        assert order(journal) == [(2, 0), (1, 5)]


def test_a_clock_that_was_set_back_leaves_the_order_of_streams(path: Path) -> None:
    write_a_stream_of_the_future(path)
    with Journal(path) as journal:
        journal.append([verdict(0, stream=2), verdict(0, stream=3)])
        journal.append([verdict(0, stream=4), verdict(1, stream=1)])
        journal.append([verdict(1, stream=2)])
        assert order(journal) == [(3, 0), (4, 0), (1, 1), (2, 1)]


def test_streams_that_begin_while_the_clock_is_behind_come_after_those_before(path: Path) -> None:
    write_a_stream_of_the_future(path)
    with Journal(path) as journal:
        for stream in (9, 5, 7):
            journal.append([verdict(0, stream=stream)])
        assert order(journal) == [(1, 0), (9, 0), (5, 0), (7, 0)]


def test_streams_of_cameras_whose_verdicts_have_gone_or_expired_are_not_taken_up(path: Path) -> None:
    now_ns = time.time_ns()
    with Journal(path, Retention(max_age_days=10)) as journal:
        journal.append([verdict(0, camera="gone", received_ns=0)])
        assert journal.prune(now_ns) == 1
        journal.append([verdict(0, camera=camera, received_ns=now_ns) for camera in ("early", "late")])
        journal.append([verdict(1, camera="late", stream=8, received_ns=now_ns)])
        assert set(journal.streams()) == {"gone", "early", "late"}
        assert set(journal.kept_streams(now_ns)) == {"early", "late"}
        assert [state.stream for state in journal.kept_streams(now_ns)["late"]] == [7, 8]
        assert journal.kept_streams(now_ns + 11 * DAY) == {}
    with Journal(path) as journal:
        assert set(journal.kept_streams(now_ns + 11 * DAY)) == {"early", "late"}


def test_the_newest_streams_of_one_camera_are_told_newest_last(path: Path) -> None:
    with Journal(path) as journal:
        for stream in (3, 1, 2):
            journal.append([verdict(5, stream=stream), verdict(stream, camera="right", stream=9)])
        assert [(state.stream, state.last_seq) for state in journal.recent_streams("left", 2)] == [(1, 5), (2, 5)]
        assert journal.recent_streams("none", 2) == []


def test_streams_of_ever_new_cameras_are_bounded_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.journal.ALL_STREAMS_KEPT", 3)
    with Journal(path) as journal:
        for number in range(5):
            journal.append([verdict(0, camera=f"cam{number}")])
    with Journal(path) as journal:
        assert set(journal.streams()) == {"cam2", "cam3", "cam4"}
