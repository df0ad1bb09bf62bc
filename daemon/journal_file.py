"""The journal's file: an SQLite database in WAL mode, its schema, and what its errors mean to a person.

Tables: `verdicts` (the body is the verdict as it travels, msgpack), `streams` (how far each stream came; survives
retention, though of a camera's many only the newest survive a restart), `position` (the next offset; survives retention
too). Unsigned 64-bit numbers are stored less 2**63, which keeps their order in SQLite's signed integers.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

from daemon.errors import JournalError, PartKnownError

JOURNAL_FILE: Final = "journal.sqlite"
APPLICATION_ID: Final = 0x50544C4E  # "PTLN"
SCHEMA_VERSION: Final = 1
BUSY_TIMEOUT_S: Final = 2.0
CACHE_KIB: Final = 4096
UNSIGNED_SHIFT: Final = 2**63

_SCHEMA: Final = (
    """
    CREATE TABLE verdicts (
        offset INTEGER PRIMARY KEY,
        camera TEXT NOT NULL,
        stream INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        received_ns INTEGER NOT NULL,
        verdict TEXT NOT NULL,
        reason TEXT,
        recipe TEXT,
        part TEXT,
        body BLOB NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX verdicts_identity ON verdicts (camera, stream, seq)",
    "CREATE INDEX verdicts_received ON verdicts (received_ns)",
    "CREATE INDEX verdicts_part ON verdicts (part) WHERE part IS NOT NULL",
    "CREATE INDEX verdicts_not_passed ON verdicts (verdict) WHERE verdict <> 'pass'",
    """
    CREATE TABLE streams (
        camera TEXT NOT NULL,
        stream INTEGER NOT NULL,
        last_seq INTEGER NOT NULL,
        updated_ns INTEGER NOT NULL,
        PRIMARY KEY (camera, stream)
    ) WITHOUT ROWID
    """,
    "CREATE TABLE position (id INTEGER PRIMARY KEY CHECK (id = 0), next_offset INTEGER NOT NULL, checked_ns INTEGER)",
    "INSERT INTO position VALUES (0, 0, NULL)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)

Synchronous = Literal["FULL", "NORMAL"]


def to_signed(value: int) -> int:
    """Map uint64 to int64 and keep the order."""
    return value - UNSIGNED_SHIFT


def to_unsigned(value: int) -> int:
    return value + UNSIGNED_SHIFT


class JournalFile:
    """One connection to the journal, opened again by itself after an error. Thread-safe; all raises JournalError.

    With `create` a missing file is made, but only at construction: a journal that vanishes later is an error.
    """

    def __init__(self, path: Path, *, create: bool = False, synchronous: Synchronous = "FULL") -> None:
        self.path = path
        self._writable = create
        self._synchronous = synchronous
        self._lock = threading.RLock()
        self._open: sqlite3.Connection | None = None
        self._closed = False
        self._identity: tuple[int, int] | None = None
        with self._lock, self._explained():
            self._open = self._connect(create=create)

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one query and return all of its rows."""
        with self._lock, self._explained():
            return self._connection().execute(sql, values).fetchall()

    def vacuum(self, pages: int) -> None:
        """Give at most `pages` free pages back to the disk."""
        with self._lock, self._explained():
            # Each step frees one page; `execute` would take a statement without columns to be done after the first.
            self._connection().executescript(f"PRAGMA incremental_vacuum({pages})")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of the block is committed and, with synchronous FULL, on disk; or, if it raises, none of it."""
        with self._lock, self._explained():
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._disconnect()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Whatever goes wrong, the next call begins with a fresh connection; closing one rolls back."""
        try:
            yield
        except sqlite3.Error as error:
            self._disconnect()
            raise explain(self.path, error) from error
        except BaseException:
            self._disconnect()
            raise

    def _connection(self) -> sqlite3.Connection:
        if self._closed:
            raise JournalError(f"The journal {self.path} is closed.")
        if self._open is not None and self._file_identity() != self._identity:
            self._disconnect()
            if self._writable:
                raise JournalError(
                    f"The journal {self.path} was moved, replaced or deleted while the daemon runs. Put it back; "
                    "the daemon goes on by itself."
                )
        if self._open is None:
            self._open = self._connect(create=False)
        return self._open

    def _connect(self, *, create: bool) -> sqlite3.Connection:
        if not create:
            self._see()
        try:
            connection = self._connect_in_mode("rwc" if create else "rw" if self._writable else "ro")
        except sqlite3.OperationalError:
            # A reader who may not write to the folder can't make the shared memory that a WAL needs; without a WAL
            # the file is at rest and can be read as it is.
            if self._writable or self._file_identity() is None or Path(f"{self.path}-wal").exists():
                raise
            connection = self._connect_in_mode("ro&immutable=1")
        self._identity = self._file_identity()
        return connection

    def _see(self) -> None:
        """SQLite has one and the same error for all of this."""
        try:
            self.path.stat()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise JournalError(f"There is no journal at {self.path}.") from error
        except OSError as error:
            raise JournalError(f"The journal {self.path} can't be read: {error.strerror}.") from error

    def _connect_in_mode(self, mode: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(str(self.path.absolute()))}?mode={mode}",
            uri=True,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            if self._writable:
                _prepare(connection, self._synchronous)
            _check_schema(connection, self.path)
        except BaseException:
            connection.close()
            raise
        return connection

    def _disconnect(self) -> None:
        connection, self._open = self._open, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _file_identity(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self.path)  # noqa: PTH116  (once a batch, on the hot path)
        except OSError:
            return None
        return status.st_dev, status.st_ino


def _prepare(connection: sqlite3.Connection, synchronous: Synchronous) -> None:
    """Set up a writer's connection, and the tables of a file that has none yet."""
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    if connection.execute("PRAGMA page_count").fetchone()[0] == 0:
        # Only an empty file can be given this, and only before anything is written to it.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise JournalError(
            "The journal's disk has no shared memory for SQLite's log: give a journal.dir on a local disk."
        )
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    if not connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone():
        connection.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute("COMMIT")


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID:
        raise JournalError(f"{path} is an SQLite file, but not a journal of patchline. Name another file.")
    if version > SCHEMA_VERSION:
        raise JournalError(
            f"The journal {path} was written by a newer patchline (its format is {version}, this one reads "
            f"{SCHEMA_VERSION}). Install that version, or give this one another journal.dir."
        )


def explain(path: Path, error: sqlite3.Error) -> JournalError:
    """Say what an SQLite error means, and what to do."""
    extended = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    code = extended & 0xFF
    if extended == sqlite3.SQLITE_CONSTRAINT_UNIQUE:
        return PartKnownError(f"A verdict is in the journal {path} already ({error}).")
    # No other constraint can be broken by what the daemon writes into tables that are whole.
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT):
        return JournalError(
            f"The journal {path} is damaged ({error}). It was left as it is: restore it from a backup, or move it and "
            "its -wal and -shm files aside, and the daemon begins a new one with offset 0."
        )
    if code == sqlite3.SQLITE_FULL:
        return JournalError(f"The journal {path} can't be written: the disk is full. Make room.")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH):
        return JournalError(
            f"The journal {path} can't be opened as needed ({error}). Check that its disk is mounted for writing, and "
            "that this user may read and write the file and its folder."
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return JournalError(f"The journal {path} is locked by another program: close that.")
    if code == sqlite3.SQLITE_IOERR:
        return JournalError(
            f"The journal {path} can't be read or written: its disk fails, is full or turned read-only ({error}). "
            "`df -h` and `dmesg` tell which: make room, or stop the daemon, mend the disk and start it again."
        )
    return JournalError(f"The journal {path} failed: {error}.")
