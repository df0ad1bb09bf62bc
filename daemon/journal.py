"""The journal: every verdict is on disk before anybody hears of it. SQLite in WAL mode, one transaction per batch."""

import fcntl
import os
import shutil
import sqlite3
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Final

from daemon.errors import JournalError, PartKnownError
from daemon.journal_file import JournalFile, Synchronous, to_signed
from daemon.journal_reader import JournalReader, StreamState, VerdictFilter
from daemon.messages import Verdict
from daemon.retention import NS_PER_DAY, Retention

__all__ = ["Journal", "JournalReader", "StreamState", "VerdictFilter"]

# Per call of `prune`: its time is a wait for the verdicts behind it.
PRUNED_VERDICTS: Final = 2000
VACUUMED_PAGES: Final = 512
# Free pages up to this share of the file are kept for the next verdicts.
SPARE_SHARE: Final = 1 / 16
# A camera's streams beyond these are forgotten at start-up, and known from then on by those of their verdicts that are
# kept: nobody resends a part of longer ago.
STREAMS_KEPT: Final = 1000
# And of all cameras: names may be new for ever.
ALL_STREAMS_KEPT: Final = 100_000
# Without this much room, writing again would fail again at once.
LEAST_FREE_BYTES: Final = 4 * 2**20


class Journal(JournalReader):
    """The journal at `path`, made if it is missing, held by this process alone. Raises JournalError.

    After an error nothing of the failed call is on disk, and the next call tries again: the journal recovers as soon as
    its disk does. Thread-safe. With `synchronous` NORMAL a power cut may take the last verdicts back; a crash of the
    daemon never does.
    """

    def __init__(self, path: Path, retention: Retention | None = None, *, synchronous: Synchronous = "FULL") -> None:
        self._retention = retention or Retention()
        with ExitStack() as resources:
            resources.enter_context(_held(path))
            self._file = JournalFile(path, create=True, synchronous=synchronous)
            resources.callback(self._file.close)
            self._next_offset = super().next_offset
            self._first_offset = super().first_offset
            if self._first_offset > self._next_offset:
                raise JournalError(f"The journal {path} is damaged: its next offset is below those it holds.")
            self._updated_ns = self._forget_old_streams()
            self._resources = resources.pop_all()

    @property
    def first_offset(self) -> int:
        """The oldest offset that is still kept; `next_offset` if none is. Doesn't touch the disk."""
        return self._first_offset

    @property
    def next_offset(self) -> int:
        """The offset that the next verdict gets. Doesn't touch the disk."""
        return self._next_offset

    @property
    def size_bytes(self) -> int:
        """Bytes on disk, write-ahead log included; 0 where the file is away."""
        return _size(self.path) + _size(Path(f"{self.path}-wal"))

    def kept_streams(self, now_ns: int) -> dict[str, list[StreamState]]:
        """Return the streams, as `streams` does, of cameras of which a verdict is kept and has not expired.

        `now_ns`: Unix time. Raises JournalError.
        """
        cutoff_ns = self._retention.cutoff_ns(now_ns)
        return {
            camera: states
            for camera, states in self.streams().items()
            if (cutoff_ns is None or states[-1].updated_ns >= cutoff_ns)
            and self._file.rows("SELECT 1 FROM verdicts WHERE camera = ? LIMIT 1", (camera,))
        }

    def append(self, verdicts: Sequence[Verdict]) -> list[Verdict]:
        """Commit all of `verdicts` in one transaction and return them with their offsets.

        Raises JournalError, and then none of them is in the journal. A verdict on a part that has one is refused.
        """
        if not verdicts:
            return []
        updated_ns = max(time.time_ns(), self._updated_ns + 1)
        with self._file.transaction() as connection:
            (first,) = connection.execute("SELECT next_offset FROM position").fetchone()
            numbered = [replace(verdict, offset=first + i) for i, verdict in enumerate(verdicts)]
            connection.executemany(
                "INSERT INTO verdicts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", [_row(verdict) for verdict in numbered]
            )
            connection.executemany(
                "INSERT INTO streams VALUES (?, ?, ?, ?) ON CONFLICT (camera, stream) DO UPDATE SET "
                "last_seq = max(last_seq, excluded.last_seq), updated_ns = excluded.updated_ns",
                [(*key, last_seq, updated_ns + i) for i, (key, last_seq) in enumerate(_last_seqs(numbered).items())],
            )
            connection.execute("UPDATE position SET next_offset = ?", (first + len(numbered),))
        self._next_offset = first + len(numbered)
        self._updated_ns = updated_ns + len(numbered)
        return numbered

    def append_new(self, verdicts: Sequence[Verdict]) -> list[tuple[Verdict, bool]]:
        """Commit those of `verdicts` whose parts have none yet in one transaction; a part that has one keeps it.

        Returns for each the verdict that the journal holds now, and whether its part had it before. Raises
        JournalError, and then none of them is in the journal.
        """
        # Looked for only where there are some: each look costs about as much as a verdict.
        with suppress(PartKnownError):
            return [(verdict, False) for verdict in self.append(verdicts)]
        held: dict[tuple[str, int, int], Verdict] = {}
        new: dict[tuple[str, int, int], int] = {}
        for place, verdict in enumerate(verdicts):
            if (found := self.find(*verdict.identity)) is not None:
                held[verdict.identity] = found
            else:
                new.setdefault(verdict.identity, place)
        for written in self.append([verdicts[place] for place in new.values()]):
            held[written.identity] = written
        return [(held[verdict.identity], new.get(verdict.identity) != place) for place, verdict in enumerate(verdicts)]

    def check(self) -> None:
        """Write and sync something small, to see whether the disk takes writes again. Raises JournalError."""
        try:
            free = shutil.disk_usage(self.path.parent).free
        except OSError as error:
            raise JournalError(f"The journal {self.path} can't be written: {error.strerror}.") from error
        if free < LEAST_FREE_BYTES:
            raise JournalError(f"The journal {self.path} can't be written: the disk is full. Make room.")
        with self._file.transaction() as connection:
            connection.execute("UPDATE position SET checked_ns = ?", (time.time_ns(),))

    def prune(self, now_ns: int) -> int:
        """Take away the oldest verdicts that have expired or are too many, at most PRUNED_VERDICTS a call.

        `now_ns`: Unix time. Returns how many went; call again for more. Raises JournalError.
        """
        with self._file.transaction() as connection:
            following = min(max(self._expired(connection, now_ns), self._surplus(connection)), self._next_offset)
            pruned = connection.execute("DELETE FROM verdicts WHERE offset < ?", (following,)).rowcount
        self._first_offset = max(self._first_offset, following)
        self._give_pages_back()
        return pruned

    def close(self) -> None:
        self._resources.close()

    def _expired(self, connection: sqlite3.Connection, now_ns: int) -> int:
        """The offset below which verdicts have expired; one that a wrong clock put in the future goes with the next."""
        cutoff_ns = self._retention.cutoff_ns(now_ns)
        if cutoff_ns is None:
            return 0
        (following,) = connection.execute(
            """
            WITH oldest AS (SELECT offset, received_ns FROM verdicts ORDER BY offset LIMIT :most)
            SELECT max(offset) + 1 FROM oldest WHERE received_ns < :cutoff AND offset < coalesce(
                (SELECT min(offset) FROM oldest WHERE received_ns BETWEEN :cutoff AND :latest), :all)
            """,
            {"most": PRUNED_VERDICTS, "cutoff": cutoff_ns, "latest": now_ns + NS_PER_DAY, "all": 2**63 - 1},
        ).fetchone()
        return following or 0

    def _surplus(self, connection: sqlite3.Connection) -> int:
        """The offset below which verdicts must go to keep the file within its size."""
        if self._retention.max_bytes is None:
            return 0
        pages, free, page_bytes = _page_counts(connection)
        used = (pages - free) * page_bytes
        surplus = used - int(self._retention.max_bytes * (1 - SPARE_SHARE))
        if surplus <= 0:
            return 0
        share = surplus / used
        count = self._next_offset - self._first_offset
        return self._first_offset + min(int(count * share) + 1, PRUNED_VERDICTS)

    def _give_pages_back(self) -> None:
        """Shorten the file where more pages are free than the next verdicts need."""
        with self._file.transaction() as connection:
            pages, free, _ = _page_counts(connection)
        surplus = free - int(pages * SPARE_SHARE)
        if surplus > 0:
            self._file.vacuum(min(surplus, VACUUMED_PAGES))

    def _forget_old_streams(self) -> int:
        """Bound the streams of each camera and of all; return the newest `updated_ns`."""
        with self._file.transaction() as connection:
            connection.execute(
                "DELETE FROM streams WHERE (camera, stream) IN (SELECT camera, stream FROM ("
                "SELECT camera, stream, row_number() OVER (PARTITION BY camera ORDER BY updated_ns DESC) AS place, "
                "row_number() OVER (ORDER BY updated_ns DESC) AS place_of_all FROM streams) "
                "WHERE place > ? OR place_of_all > ?)",
                (STREAMS_KEPT, ALL_STREAMS_KEPT),
            )
            (newest,) = connection.execute("SELECT max(updated_ns) FROM streams").fetchone()
        return newest or 0


def _row(verdict: Verdict) -> tuple[Any, ...]:
    return (
        verdict.offset,
        verdict.camera,
        to_signed(verdict.stream),
        to_signed(verdict.seq),
        verdict.received_ns,
        verdict.verdict.value,
        verdict.reason.value if verdict.reason is not None else None,
        verdict.recipe,
        verdict.part,
        verdict.pack(),
    )


def _last_seqs(verdicts: Sequence[Verdict]) -> dict[tuple[str, int], int]:
    """The last part of each stream in a batch, streams by their last verdict."""
    last: dict[tuple[str, int], int] = {}
    for verdict in verdicts:
        key = verdict.camera, to_signed(verdict.stream)
        seq = to_signed(verdict.seq + verdict.count - 1)
        last[key] = max(seq, last.pop(key, seq))
    return last


def _page_counts(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """Return pages in all, free pages, and bytes per page."""
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return pages, free, size


def _held(path: Path) -> IO[str]:
    """Lock the journal for this process. A lock on the database file itself would meddle with SQLite's own."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = Path(f"{path}.lock").open("a+", encoding="ascii")  # noqa: SIM115  (held as long as the journal)
    except OSError as error:
        raise JournalError(f"The journal's folder {path.parent} can't be used: {error.strerror}.") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        owner = file.read(20).strip()
        file.close()
        raise JournalError(
            f"The journal {path} is used by another daemon{f' (process {owner})' if owner else ''}: stop that one, or "
            "give this one a journal.dir of its own."
        ) from error
    try:
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
    except OSError as error:
        with suppress(OSError):
            file.close()
        raise JournalError(f"The journal {path} can't be written: {error.strerror}. Make room on its disk.") from error
    return file


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
