"""Verdicts as CSV or JSON lines, for spreadsheets and programs."""

import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final, Literal

from daemon.errors import JournalError
from daemon.messages import Stages, Verdict

ExportFormat = Literal["csv", "jsonl"]

STAGES: Final = tuple(field.name for field in fields(Stages))
COLUMNS: Final = (
    *("offset", "received", "camera", "stream", "seq", "count", "trigger", "part", "recipe", "bank", "verdict"),
    *("reason", "detail", "score", "p_value", "review_threshold", "fail_threshold", "regions"),
    *("captured_ns", "received_ns", "published_ns", *(f"{stage}_us" for stage in STAGES)),
)


def write_verdicts(verdicts: Iterable[Verdict], kind: ExportFormat, output: Path | None) -> int:
    """Write to `output`, whole or not at all, or to stdout; return how many verdicts. Raises JournalError.

    CSV has a header line, `received` as ISO 8601 in UTC, and the regions as JSON in one field.
    """
    count = 0
    with _opened(output) as file:
        if kind == "csv":
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            for verdict in verdicts:
                writer.writerow(_csv_row(verdict))
                count += 1
        else:
            for verdict in verdicts:
                file.write(json.dumps(verdict.to_map(), separators=(",", ":")) + "\n")
                count += 1
    return count


def _csv_row(verdict: Verdict) -> dict[str, Any]:
    values = verdict.to_map()
    row = {name: values[name] for name in COLUMNS if name in values}
    received = datetime.fromtimestamp(verdict.received_ns / 1e9, UTC)
    row["received"] = received.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    row["regions"] = json.dumps(values["regions"], separators=(",", ":"))
    return row | {f"{stage}_us": values["stages"][stage] for stage in STAGES}


@contextmanager
def _opened(output: Path | None) -> Iterator[IO[str]]:
    if output is None:
        try:
            yield sys.stdout
            sys.stdout.flush()
        except BrokenPipeError:
            # A reader such as `head` has enough; what is still buffered must go somewhere when Python exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    partial = output.with_name(output.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            yield file
        partial.replace(output)
    except OSError as error:
        raise JournalError(f"The export {output} can't be written: {error.strerror}.") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
