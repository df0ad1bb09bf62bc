"""Past verdicts for a person who asks why a part was rejected: a table of many, or all there is to say about one."""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from daemon.file_names import printable
from daemon.messages import Stages, Verdict
from daemon.outcomes import Outcome, Reason
from daemon.verdict_table import STYLES

LARGEST_REGIONS: Final = 5

_REASONS: Final = {
    Reason.SHED: "The queue was full, and this was the oldest part in it.",
    Reason.LATE: "It waited for longer than the recipe's max_age_ms.",
    Reason.UNDECODABLE: "Its payload is no picture of the encoding that the camera stated.",
    Reason.TOO_LARGE: "It has more bytes or pixels than the limits allow.",
    Reason.BAD_GEOMETRY: "Its shape, dtype or bits don't fit its payload or the recipe.",
    Reason.MALFORMED: "Its header breaks the wire format.",
    Reason.UNKNOWN_RECIPE: "There was no recipe for it.",
    Reason.TOO_MANY_CAMERAS: "Its camera was one more than intake.max_cameras, and nobody made room.",
    Reason.ENGINE_ERROR: "The engine failed, or gave no finite score.",
    Reason.SHUTTING_DOWN: "The daemon was stopped before it could be judged.",
    Reason.JOURNAL_UNAVAILABLE: "Its verdict could not be put on disk.",
    Reason.MISSING: "Its frame never reached this host: a gap in seq.",
}


def verdicts_table(verdicts: Iterable[Verdict]) -> Table:
    """Return one row for each verdict; times are local. It fits a terminal of 80 columns."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("received", "camera", "seq", "part", "verdict", "score", "fail at"):
        right = name in ("seq", "score", "fail at")
        table.add_column(
            name,
            justify="right" if right else "left",
            no_wrap=name not in ("camera", "part", "verdict"),
            overflow="fold",
        )
    for verdict in verdicts:
        table.add_row(
            local_time(verdict.received_ns, "seconds"),
            verdict.camera,
            _parts(verdict),
            Text(printable(verdict.part or "-")),
            Text(_word(verdict), STYLES[verdict.verdict]),
            _number(verdict.score),
            _number(verdict.fail_threshold),
        )
    return table


def verdict_details(verdict: Verdict, pictures: Sequence[Path]) -> RenderableType:
    """Return all there is to say about one verdict. `pictures`: what the archive holds of the part."""
    whose = f"part {verdict.part}" if verdict.part else f"camera {verdict.camera}, seq {_parts(verdict)}"
    title = Text(printable(f"{whose}: "))
    title.append(_word(verdict), STYLES[verdict.verdict])
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="dim", no_wrap=True)
    rows.add_column(overflow="fold")
    for name, text in _facts(verdict):
        rows.add_row(name, Text(printable(text)))
    for path in pictures:
        rows.add_row("archived", Text(str(path)))
    return Group(title, Padding(rows, (0, 0, 1, 2)))


def _facts(verdict: Verdict) -> Iterable[tuple[str, str]]:
    if verdict.reason is not None:
        yield "why", _REASONS[verdict.reason] + (f" {verdict.detail}" if verdict.detail else "")
    if verdict.score is not None:
        yield "why", _why(verdict)
        yield (
            "score",
            f"{_number(verdict.score)} (review from {_number(verdict.review_threshold)}, fail from "
            + (f"{_number(verdict.fail_threshold)})"),
        )
    if verdict.p_value is not None:
        yield "p-value", f"{verdict.p_value:.4f} (the share of good parts that score as high)"
    largest = sorted(verdict.regions, key=lambda region: -region.peak)
    for region in largest[:LARGEST_REGIONS]:
        yield (
            "region",
            f"{region.width} x {region.height} px at x {region.x}, y {region.y}; area {region.area:.0f} px, peak "
            f"{_number(region.peak)} at ({region.centroid[0]:.0f}, {region.centroid[1]:.0f})",
        )
    if len(largest) > LARGEST_REGIONS:
        yield "", f"and {len(largest) - LARGEST_REGIONS} smaller region(s)"
    yield "received", local_time(verdict.received_ns)
    yield "camera", f"{verdict.camera}, seq {_parts(verdict)}, stream {verdict.stream}"
    if verdict.trigger is not None:
        yield "trigger", str(verdict.trigger)
    if verdict.recipe is not None:
        yield "recipe", verdict.recipe
    if verdict.bank is not None:
        yield "bank", verdict.bank
    if verdict.score is not None:
        stages = ((field.name, getattr(verdict.stages, field.name)) for field in fields(Stages))
        yield "time", ", ".join(f"{name} {micros / 1000:.1f} ms" for name, micros in stages)
    yield "offset", str(verdict.offset)


def _why(verdict: Verdict) -> str:
    score, review, fail = verdict.score, verdict.review_threshold, verdict.fail_threshold
    if score is None or review is None or fail is None:
        return verdict.verdict.value
    match verdict.verdict:
        case Outcome.FAIL:
            return f"Its score is {_percent(score, fail)} above the fail threshold."
        case Outcome.REVIEW:
            return "Its score is between the review and the fail threshold."
        case _:
            return f"Its score is {_percent(score, review)} below the review threshold."


def _percent(score: float, threshold: float) -> str:
    return f"{abs(score / threshold - 1):.0%}" if threshold > 0 else _number(abs(score - threshold))


def _word(verdict: Verdict) -> str:
    return verdict.verdict.value if verdict.reason is None else f"{verdict.verdict.value}: {verdict.reason.value}"


def _parts(verdict: Verdict) -> str:
    return str(verdict.seq) if verdict.count == 1 else f"{verdict.seq} .. {verdict.seq + verdict.count - 1}"


def local_time(time_ns: int, precision: Literal["seconds", "milliseconds"] = "milliseconds") -> str:
    """Return a Unix time in nanoseconds as local date and time; a clock that was far off can't be shown as one."""
    try:
        return datetime.fromtimestamp(time_ns / 1e9).isoformat(" ", timespec=precision)
    except (OverflowError, ValueError, OSError):
        return f"{time_ns} ns"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
