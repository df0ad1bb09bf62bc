"""What the journal costs: group commits, each synced to disk, and looks at what it holds.

Batches stand for what the sink thread finds waiting: one verdict on an idle line, dozens under load.
"""

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from daemon.journal import Journal, VerdictFilter
from daemon.messages import Region, Stages, Verdict
from daemon.outcomes import Outcome
from daemon.retention import Retention
from tests.benchmarks.figures import Options, Row, compared, in_turns, milliseconds, row

BATCHES: Final = (1, 8, 32, 256)
COMMITS: Final = 200
ROUNDS: Final = 5
VERDICTS: Final = 20_000


def run(options: Options, _machine: dict[str, Any]) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        for batch in BATCHES:
            yield from _commits(Path(folder), batch, COMMITS * (5 if options.full else 1))
        yield from _looks(Path(folder) / "looks.sqlite", options.rounds or ROUNDS)


def _commits(folder: Path, batch: int, commits: int) -> Iterator[Row]:
    """Compare a commit that survives a power cut with one that survives a crash only, and both with a bare fsync."""
    with (
        Journal(folder / f"full-{batch}.sqlite", synchronous="FULL") as full,
        Journal(folder / f"normal-{batch}.sqlite", synchronous="NORMAL") as normal,
    ):
        numbers = iter(range(10**9))

        def append(journal: Journal) -> Callable[[], float]:
            def run() -> float:
                first = next(numbers) * batch
                group = [sample(seq) for seq in range(first, first + batch)]
                return milliseconds(lambda: journal.append(group))()

            return run

        values = in_turns({"synchronous FULL": append(full), "synchronous NORMAL": append(normal)}, commits)
    yield from compared(f"commit of {batch} verdict(s)", "ms", values, "synchronous FULL")
    rate = batch * 1e3 / statistics.fmean(values["synchronous FULL"])
    yield row(f"commit of {batch} verdict(s)", "synchronous FULL", "verdicts/s", [rate])


def _looks(path: Path, rounds: int) -> Iterator[Row]:
    with Journal(path, Retention(max_bytes=2**20)) as journal:
        for first in range(0, VERDICTS, 1000):
            journal.append([sample(seq) for seq in range(first, first + 1000)])
        draw = random.Random(1)
        last = journal.next_offset - 1
        looks: dict[str, Callable[[], object]] = {
            "find one part by its identity": lambda: journal.find("cam1", 7, draw.randint(0, last)),
            "find one part by its name": lambda: list(
                journal.query(VerdictFilter(part=f"part {draw.randint(0, last)}"))
            ),
            "replay 1000 verdicts": lambda: journal.read(draw.randint(0, max(last - 1000, 0)), 1000),
            "read every fail": lambda: list(journal.query(VerdictFilter(verdicts=(Outcome.FAIL,)))),
            "prune 2000 verdicts": lambda: journal.prune(time.time_ns()),
        }
        for name, call in looks.items():
            yield row(f"{name}, of {VERDICTS}", "journal", "ms", in_turns({name: milliseconds(call)}, rounds)[name])


def sample(seq: int) -> Verdict:
    """A verdict as a line gives them: one in fifty fails, with regions."""
    failed = seq % 50 == 0
    region = Region(x=120, y=44, width=34, height=20, area=512.0, peak=1.75, centroid=(137.25, 54.5))
    return Verdict(
        camera="cam1",
        stream=7,
        seq=seq,
        verdict=Outcome.FAIL if failed else Outcome.PASS,
        captured_ns=time.time_ns(),
        received_ns=time.time_ns(),
        published_ns=time.time_ns(),
        part=f"part {seq}",
        recipe="caps",
        bank="20260101T000000Z-0123abcd",
        score=1.5 if failed else 0.5,
        p_value=0.01 if failed else 0.6,
        review_threshold=1.0,
        fail_threshold=1.25,
        regions=(region, region) if failed else (),
        stages=Stages(wait=1200, decode=3400, embed=150_000, search=22_000, score=2500, publish=300),
    )
