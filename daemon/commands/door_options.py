"""The options by which commands that connect to a daemon name their keys."""

from pathlib import Path
from typing import Annotated

import typer

KeyOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Your secret key, for a daemon that asks for keys.")
]
ServerKeyOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The daemon's .pub; without it the running daemon of the configuration tells."),
]
