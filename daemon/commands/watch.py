"""`patchline watch`: every verdict, once and in order, as a table, as JSON lines, or with its heat map on disk."""

from pathlib import Path
from typing import Annotated

import typer

from daemon.commands.door_options import KeyOption, ServerKeyOption


def watch(
    camera: Annotated[list[str] | None, typer.Option(help="Only this camera; may be given more than once.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a verdict to stdout.")] = False,
    save: Annotated[Path | None, typer.Option(metavar="DIR", help="Save heat maps as PNG files here.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after this many verdicts.")] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.01, help="Stop after this many seconds without a verdict; status 1 if short.")
    ] = None,
    from_offset: Annotated[
        int | None, typer.Option(min=0, help="Begin at this journal offset; without it with the next verdict.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="The daemon's verdicts; without it the configuration's.")] = None,
    replay: Annotated[
        str | None, typer.Option(help="The daemon's replay door; without it the configuration's.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="The configuration that names the addresses.")] = None,
    key: KeyOption = None,
    server_key: ServerKeyOption = None,
) -> None:
    """Show verdicts as the daemon publishes them. None is missed: gaps are filled from the journal."""
    from daemon.endpoints import client_keys, endpoint
    from daemon.watching import watch_verdicts

    complete = watch_verdicts(
        verdicts_address=address or endpoint("verdicts", config),
        replay_address=replay or endpoint("replay", config),
        cameras=camera,
        as_json=as_json,
        save=save,
        count=count,
        timeout_s=timeout,
        from_offset=from_offset,
        keys=client_keys(key, server_key, config),
    )
    raise typer.Exit(0 if complete else 1)
