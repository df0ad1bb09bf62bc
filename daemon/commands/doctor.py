"""`patchline doctor`: what is right with this host, what isn't, and what to do about it."""

from pathlib import Path
from typing import Annotated, Final

import typer

COLOURS: Final = {"ok": typer.colors.GREEN, "warning": typer.colors.YELLOW, "fail": typer.colors.RED}
CHECK_WIDTH: Final = 32
STATUS_WIDTH: Final = 8


def doctor(
    config: Annotated[
        Path | None,
        typer.Option(help="Check this configuration's device, banks and addresses; else config.toml in this folder."),
    ] = None,
    banks: Annotated[Path | None, typer.Option(help="Check every recipe's active bank in this folder.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Examine the running daemon of this configuration.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Check this host: libraries, device, speed, weights, banks, disks and ports; with --live, the daemon that runs.

    Ends with status 1 if anything fails.
    """
    from daemon import doctor as examination
    from daemon.endpoints import chosen_configuration, chosen_settings

    settings = chosen_settings(config)
    if live:
        from daemon.live_doctor import examine_live

        examined = examine_live(settings)
    else:
        examined = examination.examine(settings, recipes=chosen_configuration(config) is not None, banks=banks)
    findings = []
    for finding in examined:
        findings.append(finding)
        if not as_json:
            typer.secho(f"{finding.status:<{STATUS_WIDTH}}", fg=COLOURS[finding.status], nl=False)
            typer.echo(f"{finding.check:<{CHECK_WIDTH}}{finding.detail}")
            if finding.remedy is not None:
                typer.echo(" " * (STATUS_WIDTH + CHECK_WIDTH) + finding.remedy)
    if as_json:
        typer.echo(examination.to_json(findings))
    raise typer.Exit(1 if examination.worst(findings) == "fail" else 0)
