"""`patchline journal`: what was decided, and why. Reads the journal while the daemon writes it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from daemon.outcomes import Outcome, Reason

if TYPE_CHECKING:
    from daemon.config import Settings
    from daemon.journal_reader import VerdictFilter

app = typer.Typer(help="Look up past verdicts, also while the daemon runs.", no_args_is_help=True)

# Up to this many verdicts are shown in full.
DETAILED: Final = 3
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TIME_HELP: Final = "ISO 8601: 2026-05-31, 2026-05-31T14:00, 2026-05-31T12:00Z; without a zone it is local time"

Cameras = Annotated[list[str] | None, typer.Option("--camera", help="Only this camera; may be given more than once.")]
Part = Annotated[str | None, typer.Option(help="Only the part of this name.")]
Stream = Annotated[int | None, typer.Option(min=0, max=2**64 - 1, help="Only this stream.")]
Seq = Annotated[int | None, typer.Option(min=0, max=2**64 - 1, help="Only this seq, also within a gap.")]
Since = Annotated[str | None, typer.Option(metavar="TIME", help=f"Received then or later. {_TIME_HELP}.")]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Received before that; a date includes its day.")]
Verdicts = Annotated[list[Outcome] | None, typer.Option("--verdict", help="May be given more than once.")]
Reasons = Annotated[
    list[Reason] | None, typer.Option("--reason", help="Why not inspected; may be given more than once.")
]
Recipes = Annotated[list[str] | None, typer.Option("--recipe", help="Only this recipe; may be given more than once.")]
Config = Annotated[
    Path | None, typer.Option(help="The configuration that names the journal; else config.toml in this folder.")
]
JournalPath = Annotated[Path | None, typer.Option("--journal", metavar="PATH", help="The journal itself.")]


@app.command()
def query(
    camera: Cameras = None,
    part: Part = None,
    stream: Stream = None,
    seq: Seq = None,
    since: Since = None,
    until: Until = None,
    verdict: Verdicts = None,
    reason: Reasons = None,
    recipe: Recipes = None,
    limit: Annotated[int, typer.Option(min=1, help="Show at most so many, the newest.")] = 20,
    config: Config = None,
    journal: JournalPath = None,
    archive: Annotated[
        Path | None, typer.Option(help="Look for pictures in this folder; without it in the configuration's.")
    ] = None,
) -> None:
    """Show the newest verdicts that match, oldest first; a few of them in full. Status 1 if none matches."""
    from itertools import islice

    from rich.console import Console

    from daemon.archive_folder import archived_files
    from daemon.endpoints import chosen_settings
    from daemon.journal_reader import JournalReader
    from daemon.verdict_details import verdict_details, verdicts_table

    settings = chosen_settings(config)
    wanted = _filter(camera, part, stream, seq, since, until, verdict, reason, recipe)
    with JournalReader(_path(settings, journal)) as reader:
        found = list(islice(reader.query(wanted, newest_first=True), limit + 1))
    shown = found[:limit][::-1]
    console = Console()
    if not shown:
        typer.echo("No verdict matches.", err=True)
        raise typer.Exit(1)
    if len(shown) <= DETAILED:
        folder = archive if archive is not None else settings.archive.dir
        for one in shown:
            console.print(verdict_details(one, archived_files(folder, one)))
    else:
        console.print(verdicts_table(shown))
    if len(found) > limit:
        typer.echo(f"The newest {limit} of more: raise --limit, or narrow the search.", err=True)


@app.command()
def export(
    camera: Cameras = None,
    part: Part = None,
    stream: Stream = None,
    seq: Seq = None,
    since: Since = None,
    until: Until = None,
    verdict: Verdicts = None,
    reason: Reasons = None,
    recipe: Recipes = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Write at most so many, the oldest.")] = None,
    kind: Annotated[
        str | None, typer.Option("--format", metavar="csv|jsonl", help="By --output's name if not given, else jsonl.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Without it: stdout.")] = None,
    config: Config = None,
    journal: JournalPath = None,
) -> None:
    """Write the verdicts that match as CSV or JSON lines, oldest first."""
    from itertools import islice

    from daemon.endpoints import chosen_settings
    from daemon.journal_reader import JournalReader
    from daemon.verdict_export import write_verdicts

    if kind is None:
        kind = "csv" if output is not None and output.suffix == ".csv" else "jsonl"
    if kind not in ("csv", "jsonl"):
        raise typer.BadParameter(f"{kind!r} is neither csv nor jsonl.", param_hint="--format")
    wanted = _filter(camera, part, stream, seq, since, until, verdict, reason, recipe)
    with JournalReader(_path(chosen_settings(config), journal)) as reader:
        count = write_verdicts(islice(reader.query(wanted), limit), "csv" if kind == "csv" else "jsonl", output)
    if output is not None:
        typer.echo(f"{count} verdict(s) written to {output}.", err=True)


def _filter(
    camera: list[str] | None,
    part: str | None,
    stream: int | None,
    seq: int | None,
    since: str | None,
    until: str | None,
    verdict: list[Outcome] | None,
    reason: list[Reason] | None,
    recipe: list[str] | None,
) -> "VerdictFilter":
    from daemon.journal_reader import VerdictFilter

    return VerdictFilter(
        cameras=tuple(camera or ()),
        part=part,
        stream=stream,
        seq=seq,
        since_ns=parse_time(since) if since is not None else None,
        until_ns=parse_time(until, end_of_day=True) if until is not None else None,
        verdicts=tuple(verdict or ()),
        reasons=tuple(reason or ()),
        recipes=tuple(recipe or ()),
    )


def parse_time(text: str, *, end_of_day: bool = False) -> int:
    """Return an ISO 8601 time as Unix nanoseconds, local where it states no zone.

    With `end_of_day` a date alone stands for the end of that day. Raises typer.BadParameter.
    """
    try:
        moment = datetime.fromisoformat(text)
        if end_of_day and "T" not in text and ":" not in text:
            moment += timedelta(days=1)
        # Whole microseconds: a float of seconds would round them away.
        return (moment.astimezone(UTC) - EPOCH) // timedelta(microseconds=1) * 1000
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(f"{text!r} is no time. {_TIME_HELP}.") from error


def _path(settings: "Settings", journal: Path | None) -> Path:
    from daemon.journal_file import JOURNAL_FILE

    if journal is None:
        journal = settings.journal_dir
    return journal / JOURNAL_FILE if journal.is_dir() or not journal.suffix else journal
