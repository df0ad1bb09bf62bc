"""Reading the journal while the daemon writes it, from other threads and other processes."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from daemon.errors import JournalError, MessageError
from daemon.journal_file import JournalFile, to_signed, to_unsigned
from daemon.messages import Verdict
from daemon.outcomes import Outcome, Reason

# Rows of one SELECT: an export of everything must not hold the write-ahead log open for minutes.
PAGE_ROWS: Final = 500


@dataclass(frozen=True, slots=True)
class StreamState:
    """How far a stream of one camera came. `updated_ns` orders streams by their last verdict."""

    stream: int
    last_seq: int
    updated_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class VerdictFilter:
    """Which verdicts are asked for; an empty filter takes all.

    `seq` also finds the verdict on a gap that the part is in. `since_ns` <= received_ns < `until_ns`, Unix time.
    """

    cameras: tuple[str, ...] = ()
    part: str | None = None
    stream: int | None = None
    seq: int | None = None
    since_ns: int | None = None
    until_ns: int | None = None
    verdicts: tuple[Outcome, ...] = ()
    reasons: tuple[Reason, ...] = ()
    recipes: tuple[str, ...] = ()


class JournalReader:
    """A read-only view of the journal at `path`. Thread-safe; every method raises JournalError."""

    def __init__(self, path: Path) -> None:
        self._file = JournalFile(path)

    @property
    def path(self) -> Path:
        return self._file.path

    @property
    def first_offset(self) -> int:
        """The oldest offset that is still kept; `next_offset` if none is."""
        ((first,),) = self._file.rows("SELECT coalesce((SELECT min(offset) FROM verdicts), next_offset) FROM position")
        return int(first)

    @property
    def next_offset(self) -> int:
        """The offset that the next verdict gets."""
        ((following,),) = self._file.rows("SELECT next_offset FROM position")
        return int(following)

    def find(self, camera: str, stream: int, seq: int) -> Verdict | None:
        """Return the verdict on one part, or on the gap that it is in."""
        rows = self._file.rows(
            "SELECT offset, body FROM verdicts WHERE camera = ? AND stream = ? AND seq <= ? ORDER BY seq DESC LIMIT 1",
            (camera, to_signed(stream), to_signed(seq)),
        )
        for verdict in self._verdicts(rows):
            if seq < verdict.seq + verdict.count:
                return verdict
        return None

    def read(self, first_offset: int, limit: int) -> list[Verdict]:
        """Return at most `limit` verdicts from `first_offset` on, by offset."""
        return self._verdicts(
            self._file.rows(
                "SELECT offset, body FROM verdicts WHERE offset >= ? ORDER BY offset LIMIT ?", (first_offset, limit)
            )
        )

    def streams(self) -> dict[str, list[StreamState]]:
        """Return every camera's streams, those whose verdicts are no longer kept too, by their last verdict."""
        found: dict[str, list[StreamState]] = defaultdict(list)
        for camera, *state in self._file.rows(
            "SELECT camera, stream, last_seq, updated_ns FROM streams ORDER BY updated_ns"
        ):
            found[camera].append(_stream_state(state))
        return dict(found)

    def stream(self, camera: str, stream: int) -> StreamState | None:
        """Return how far one stream came; None if it is unknown.

        One that was forgotten at a start is known by its verdicts as long as one is kept.
        """
        identity = camera, to_signed(stream)
        rows = self._file.rows(
            "SELECT stream, last_seq, updated_ns FROM streams WHERE camera = ? AND stream = ?", identity
        )
        if rows:
            return _stream_state(list(rows[0]))
        last = self._verdicts(
            self._file.rows(
                "SELECT offset, body FROM verdicts WHERE camera = ? AND stream = ? ORDER BY seq DESC LIMIT 1", identity
            )
        )
        return StreamState(stream, last[0].seq + last[0].count - 1, last[0].received_ns) if last else None

    def recent_streams(self, camera: str, most: int) -> list[StreamState]:
        """Return the newest streams of one camera by their last verdict, the newest last."""
        rows = self._file.rows(
            "SELECT stream, last_seq, updated_ns FROM streams WHERE camera = ? ORDER BY updated_ns DESC LIMIT ?",
            (camera, most),
        )
        return [_stream_state(list(row)) for row in reversed(rows)]

    def query(self, wanted: VerdictFilter, *, newest_first: bool = False) -> Iterator[Verdict]:
        """Yield the verdicts that match, by offset. What is pruned or appended meanwhile may be left out."""
        low, high = self._bounds(wanted)
        where, values = _conditions(wanted)
        order = "DESC" if newest_first else "ASC"
        while low <= high:
            page = self._verdicts(
                self._file.rows(
                    f"SELECT offset, body FROM verdicts WHERE offset BETWEEN ? AND ? {where} "  # noqa: S608  (constants)
                    f"ORDER BY offset {order} LIMIT {PAGE_ROWS}",
                    (low, high, *values),
                )
            )
            yield from (verdict for verdict in page if _covers(wanted, verdict))
            if len(page) < PAGE_ROWS:
                return
            last = page[-1].offset or 0
            low, high = (low, last - 1) if newest_first else (last + 1, high)

    def close(self) -> None:
        self._file.close()

    def _bounds(self, wanted: VerdictFilter) -> tuple[int, int]:
        """The first and last offset to look at; clocks may jump, so that time is no more than a filter in between."""
        if wanted.since_ns is None and wanted.until_ns is None:
            return 0, self.next_offset - 1
        ((low, high),) = self._file.rows(
            "SELECT min(offset), max(offset) FROM verdicts WHERE received_ns >= ? AND received_ns < ?",
            (_clamped(wanted.since_ns, -(2**63)), _clamped(wanted.until_ns, 2**63 - 1)),
        )
        return (low, high) if low is not None else (0, -1)

    def _verdicts(self, rows: list[tuple[Any, ...]]) -> list[Verdict]:
        try:
            return [replace(Verdict.unpack(body), offset=offset) for offset, body in rows]
        except MessageError as error:
            raise JournalError(f"The journal {self.path} holds a verdict that can't be read: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _stream_state(row: list[Any]) -> StreamState:
    stream, last_seq, updated_ns = row
    return StreamState(to_unsigned(stream), to_unsigned(last_seq), updated_ns)


def _conditions(wanted: VerdictFilter) -> tuple[str, list[Any]]:
    """Return what follows the offsets' range in WHERE. A unary + keeps SQLite from an index that would have to sort."""
    terms: list[str] = []
    values: list[Any] = []

    def one_of(column: str, allowed: tuple[str, ...]) -> None:
        if allowed:
            terms.append(f"{column} IN ({', '.join('?' * len(allowed))})")
            values.extend(allowed)

    by_identity = len(wanted.cameras) == 1 and wanted.stream is not None
    one_of("camera" if by_identity else "+camera", wanted.cameras)
    one_of("verdict", tuple(outcome.value for outcome in wanted.verdicts))
    if wanted.verdicts and Outcome.PASS not in wanted.verdicts:
        terms.append("verdict <> 'pass'")
    one_of("reason", tuple(reason.value for reason in wanted.reasons))
    one_of("recipe", wanted.recipes)
    for condition, value in (
        ("part = ?", wanted.part),
        ("stream = ?", to_signed(wanted.stream) if wanted.stream is not None else None),
        ("seq <= ?", to_signed(wanted.seq) if wanted.seq is not None else None),
        ("+received_ns >= ?", _clamped(wanted.since_ns, None)),
        ("+received_ns < ?", _clamped(wanted.until_ns, None)),
    ):
        if value is not None:
            terms.append(condition)
            values.append(value)
    if wanted.seq is not None:
        # A gap may hold any later part; any other verdict is on its own part alone.
        terms.append("(seq = ? OR reason = ?)")
        values.extend((to_signed(wanted.seq), Reason.MISSING.value))
    return "".join(f" AND {term}" for term in terms), values


def _covers(wanted: VerdictFilter, verdict: Verdict) -> bool:
    return wanted.seq is None or verdict.seq <= wanted.seq < verdict.seq + verdict.count


def _clamped(time_ns: int | None, default: int | None) -> int | None:
    return default if time_ns is None else min(max(time_ns, -(2**63)), 2**63 - 1)
