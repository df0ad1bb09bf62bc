"""The account of a run: every part that was sent against every verdict in the journal."""

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from daemon.journal import JournalReader
from daemon.messages import Verdict
from daemon.outcomes import Outcome

READ_STEP = 1000
# A part's identity: camera, stream, seq.
Part = tuple[str, int, int]


def read_journal(path: Path) -> list[Verdict]:
    """Return every verdict of the journal in the order of its offsets."""
    reader = JournalReader(path)
    try:
        verdicts: list[Verdict] = []
        while step := reader.read(reader.first_offset + len(verdicts), READ_STEP):
            verdicts += step
        return verdicts
    finally:
        reader.close()


def journal_is_sound(path: Path) -> bool:
    """Whether the journal opens, recovers its write-ahead log and passes SQLite's own check."""
    connection = sqlite3.connect(path)
    try:
        return bool(connection.execute("PRAGMA integrity_check").fetchone() == ("ok",))
    finally:
        connection.close()


def descents(numbers: Sequence[int]) -> int:
    return sum(later <= earlier for earlier, later in pairwise(numbers))


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
    def of(cls, sent: set[Part], verdicts: Sequence[Verdict]) -> "Account":
        told: Counter[Part] = Counter()
        for verdict in verdicts:
            told.update((verdict.camera, verdict.stream, verdict.seq + i) for i in range(verdict.count))
        by_stream: dict[tuple[str, int], list[int]] = {}
        for verdict in verdicts:
            by_stream.setdefault((verdict.camera, verdict.stream), []).append(verdict.seq)
        refused = [verdict for verdict in verdicts if verdict.verdict is Outcome.NOT_INSPECTED]
        reasons: Counter[str] = Counter()
        for verdict in refused:
            reasons[str(verdict.reason)] += verdict.count
        offsets = [verdict.offset for verdict in verdicts if verdict.offset is not None]
        return cls(
            sent=len(sent),
            judged=len(verdicts) - len(refused),
            not_inspected=dict(reasons),
            lost=len(sent - told.keys()),
            judged_twice=sum(count - 1 for count in told.values()),
            never_sent=len(told.keys() - sent),
            out_of_order=sum(descents(seqs) for seqs in by_stream.values()),
            offsets_skipped=sum(later != earlier + 1 for earlier, later in pairwise(offsets)),
        )

    @property
    def balanced(self) -> bool:
        faults = self.lost, self.judged_twice, self.never_sent, self.out_of_order, self.offsets_skipped
        return self.sent == self.judged + sum(self.not_inspected.values()) and not any(faults)
