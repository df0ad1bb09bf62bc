"""The account of a run: every part that was sent against every verdict in the journal."""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from daemon.journal import JournalReader
from daemon.messages import Verdict
from daemon.outcomes import Outcome

READ_STEP = 1000
# A part's identity: camera, stream, seq.
Part = tuple[str, int, int]


def read_journal(path: Path) -> list[Verdict]:
    """Return every verdict of the journal in the order of its offsets."""
    return list(journal_verdicts(path))


def journal_verdicts(path: Path) -> Iterator[Verdict]:
    """Yield every verdict of the journal in the order of its offsets, a step of them in memory at a time."""
    with JournalReader(path) as reader:
        offset = reader.first_offset
        while step := reader.read(offset, READ_STEP):
            yield from step
            offset += len(step)


def journal_is_sound(path: Path) -> bool:
    """Whether the journal opens, recovers its write-ahead log and passes SQLite's own check."""
    connection = sqlite3.connect(path)
    try:
        return bool(connection.execute("PRAGMA integrity_check").fetchone() == ("ok",))
    finally:
        connection.close()


@dataclass(frozen=True, kw_only=True)
class Account:
    """What `sent` parts became. All but the first three must be 0."""

    sent: int
    judged: int
    not_inspected: Mapping[str, int]
    lost: int
    judged_twice: int
    never_sent: int
    out_of_order: int
    offsets_skipped: int

    @classmethod
    def of(cls, sent: set[Part], verdicts: Iterable[Verdict]) -> "Account":
        told: Counter[Part] = Counter()
        last_seq: dict[tuple[str, int], int] = {}
        reasons: Counter[str] = Counter()
        judged = out_of_order = offsets_skipped = 0
        last_offset: int | None = None
        for verdict in verdicts:
            told.update((verdict.camera, verdict.stream, verdict.seq + i) for i in range(verdict.count))
            stream = verdict.camera, verdict.stream
            out_of_order += verdict.seq <= last_seq.get(stream, -1)
            last_seq[stream] = verdict.seq
            if verdict.verdict is Outcome.NOT_INSPECTED:
                reasons[str(verdict.reason)] += verdict.count
            else:
                judged += 1
            if verdict.offset is not None:
                offsets_skipped += last_offset is not None and verdict.offset != last_offset + 1
                last_offset = verdict.offset
        return cls(
            sent=len(sent),
            judged=judged,
            not_inspected=dict(reasons),
            lost=len(sent - told.keys()),
            judged_twice=sum(count - 1 for count in told.values()),
            never_sent=len(told.keys() - sent),
            out_of_order=out_of_order,
            offsets_skipped=offsets_skipped,
        )

    @property
    def balanced(self) -> bool:
        faults = self.lost, self.judged_twice, self.never_sent, self.out_of_order, self.offsets_skipped
        return self.sent == self.judged + sum(self.not_inspected.values()) and not any(faults)
