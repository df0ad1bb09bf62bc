"""How many verdicts a second the journal commits, each batch synced to disk, and what reading and pruning cost.

    python -m tests.benchmarks.journal [--verdicts 20000] [--batch 1 8 32 256] [--dir FOLDER] [--json FILE]

Batches stand for what the sink thread finds waiting: one verdict on an idle line, dozens under load. Each row begins
with an empty journal. Percentiles are of one commit, in milliseconds.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from daemon.journal import Journal, VerdictFilter
from daemon.journal_file import Synchronous
from daemon.messages import Region, Stages, Verdict
from daemon.outcomes import Outcome
from daemon.retention import Retention

SECONDS_PER_ROW: Final = 6.0
COLUMNS: Final = (
    "synchronous",
    "batch",
    "verdicts",
    "verdicts_per_s",
    "p50_ms",
    "p99_ms",
    "max_ms",
    "bytes_each",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verdicts", type=int, default=20_000, help="for each batch size, at most")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32, 256])
    parser.add_argument("--dir", type=Path, help="on the disk to measure; a new folder in it is removed at the end")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        commits = [
            commit_row(Path(name) / f"{synchronous}-{batch}.sqlite", options.verdicts, batch, synchronous)
            for synchronous in ("FULL", "NORMAL")
            for batch in options.batch
        ]
        reads = read_times(Path(name) / "reads.sqlite", options.verdicts)
    show(commits, reads)
    if options.json is not None:
        options.json.write_text(json.dumps({"commits": commits, "milliseconds": reads}, indent=2) + "\n")


def commit_row(path: Path, verdicts: int, batch: int, synchronous: Synchronous) -> dict[str, Any]:
    seconds: list[float] = []
    written = 0
    with Journal(path, synchronous=synchronous) as journal:
        while written < verdicts and sum(seconds) < SECONDS_PER_ROW:
            group = [sample(seq) for seq in range(written, written + batch)]
            begin = time.perf_counter()
            journal.append(group)
            seconds.append(time.perf_counter() - begin)
            written += batch
    percentiles = statistics.quantiles(seconds, n=100) if len(seconds) > 1 else seconds * 99
    return {
        "synchronous": synchronous,
        "batch": batch,
        "verdicts": written,
        "verdicts_per_s": round(written / sum(seconds)),
        "p50_ms": round(percentiles[49] * 1e3, 3),
        "p99_ms": round(percentiles[98] * 1e3, 3),
        "max_ms": round(max(seconds) * 1e3, 3),
        "bytes_each": round(path.stat().st_size / written),
    }


def read_times(path: Path, verdicts: int) -> dict[str, float]:
    """Milliseconds of each kind of look at a journal of `verdicts`."""
    with Journal(path, Retention(max_bytes=2**20)) as journal:
        for first in range(0, verdicts, 1000):
            journal.append([sample(seq) for seq in range(first, first + 1000)])
        draw = random.Random(1)
        last = journal.next_offset - 1
        calls: dict[str, Callable[[], object]] = {
            "find one part by its identity": lambda: journal.find("cam1", 7, draw.randint(0, last)),
            "find one part by its name": lambda: list(
                journal.query(VerdictFilter(part=f"part {draw.randint(0, last)}"))
            ),
            "replay 1000 verdicts": lambda: journal.read(draw.randint(0, max(last - 1000, 0)), 1000),
            "read every fail": lambda: list(journal.query(VerdictFilter(verdicts=(Outcome.FAIL,)))),
            "prune 2000 verdicts": lambda: journal.prune(time.time_ns()),
        }
        return {name: round(median_ms(call), 3) for name, call in calls.items()}


def median_ms(call: Callable[[], object], rounds: int = 5) -> float:
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        call()
        times.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(times)


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


def show(commits: list[dict[str, Any]], reads: dict[str, float]) -> None:
    console = Console()
    table = Table(title="Group commits", box=SIMPLE_HEAD, show_edge=False)
    for name in COLUMNS:
        table.add_column(name.removesuffix("hronous").replace("_", " "), justify="right")
    for row in commits:
        table.add_row(*(f"{row[name]:,}" if isinstance(row[name], int) else str(row[name]) for name in COLUMNS))
    console.print(table)
    table = Table(title="Reading and pruning, medians", box=SIMPLE_HEAD, show_edge=False)
    table.add_column("what")
    table.add_column("ms", justify="right")
    for name, milliseconds in reads.items():
        table.add_row(name, f"{milliseconds:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
