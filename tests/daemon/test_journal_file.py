"""The journal's file: what its errors mean to a person, and how its connection is set up."""

import sqlite3
import threading
from pathlib import Path

import pytest

from daemon import journal as journal_module
from daemon.errors import JournalError
from daemon.journal import Journal, JournalReader
from daemon.journal_file import Synchronous, explain
from tests.daemon.journal_writer import verdict

PATH = Path("/line/journal.sqlite")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            sqlite3.SQLITE_CORRUPT,
            "The journal /line/journal.sqlite is damaged (so says SQLite). It was left as it is: restore it from a "
            "backup, or move it and its -wal and -shm files aside, and the daemon begins a new one with offset 0.",
        ),
        (sqlite3.SQLITE_FULL, "The journal /line/journal.sqlite can't be written: the disk is full. Make room."),
        (
            sqlite3.SQLITE_READONLY_DIRECTORY,
            "The journal /line/journal.sqlite can't be opened as needed (so says SQLite). Check that its disk is "
            "mounted for writing, and that this user may read and write the file and its folder.",
        ),
        (sqlite3.SQLITE_BUSY, "The journal /line/journal.sqlite is locked by another program: close that."),
        (
            sqlite3.SQLITE_IOERR_FSYNC,
            "The journal /line/journal.sqlite can't be read or written: its disk fails, is full or turned read-only "
            "(so says SQLite). `df -h` and `dmesg` tell which: make room, or stop the daemon, mend the disk and start "
            "it again.",
        ),
        (
            sqlite3.SQLITE_CONSTRAINT_UNIQUE,
            "A verdict is in the journal /line/journal.sqlite already (so says SQLite).",
        ),
        (sqlite3.SQLITE_MISUSE, "The journal /line/journal.sqlite failed: so says SQLite."),
    ],
)
def test_each_error_of_sqlite_is_put_into_words_with_what_to_do(code: int, words: str) -> None:
    error = sqlite3.OperationalError("so says SQLite")
    error.sqlite_errorcode = code
    assert str(explain(PATH, error)) == words


def test_an_error_that_carries_no_code_is_told_as_it_is() -> None:
    assert str(explain(PATH, sqlite3.ProgrammingError("used wrongly"))) == f"The journal {PATH} failed: used wrongly."


@pytest.mark.parametrize(("synchronous", "level"), [("FULL", 2), ("NORMAL", 1)])
def test_each_commit_waits_for_the_disk_unless_told_otherwise(
    tmp_path: Path, synchronous: Synchronous, level: int
) -> None:
    with Journal(tmp_path / "journal.sqlite", synchronous=synchronous) as journal:
        assert journal._file.rows("PRAGMA synchronous") == [(level,)]
    with Journal(tmp_path / "journal.sqlite") as journal:
        assert journal._file.rows("PRAGMA synchronous") == [(2,)]


def test_any_thread_may_write_and_read(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.sqlite") as journal, JournalReader(journal.path) as reader:
        thread = threading.Thread(target=journal.append, args=[[verdict(0)]])
        thread.start()
        thread.join(30)
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(reader.next_offset))
        thread.start()
        thread.join(30)
        assert found == [reader.next_offset] == [1]


def test_a_check_says_why_the_journal_cant_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal(tmp_path / "state" / "journal.sqlite") as journal:
        monkeypatch.setattr(journal_module, "LEAST_FREE_BYTES", 2**62)
        with pytest.raises(JournalError) as caught:
            journal.check()
        assert str(caught.value) == f"The journal {journal.path} can't be written: the disk is full. Make room."
        journal.path.parent.rename(tmp_path / "away")
        with pytest.raises(JournalError) as caught:
            journal.check()
        assert str(caught.value) == f"The journal {journal.path} can't be written: No such file or directory."
        assert journal.size_bytes == 0
        with pytest.raises(JournalError, match="Put it back; the daemon goes on by itself"):
            journal.append([verdict(0)])
