"""`patchline serve`: the daemon itself, in the foreground until SIGTERM."""

from pathlib import Path
from typing import Annotated

import typer


def serve(
    config: Annotated[Path, typer.Option(help="The configuration; the shipped config.toml explains every key.")] = Path(
        "config.toml"
    ),
) -> None:
    """Inspect frames and publish verdicts until SIGTERM; SIGHUP reloads banks and recipes."""
    from daemon.service import run_service

    raise typer.Exit(run_service(config))
