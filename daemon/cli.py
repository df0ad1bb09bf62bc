"""The `patchline` command tree. Each command's module is loaded here; whatever is heavy is loaded in its body."""

import importlib
import os
import sys
from typing import Annotated, Final

import typer

from daemon.errors import DaemonError
from patchcore_engine.errors import PatchcoreError

app = typer.Typer(
    name="patchline",
    help="Streaming visual inspection for production lines: exactly one verdict per part.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

COMMANDS: Final = {
    "fit": "daemon.commands.fit",
    "eval": "daemon.commands.eval_",
    "inspect": "daemon.commands.inspect",
    "export": "daemon.commands.export",
    "weights": "daemon.commands.weights",
    "bank": "daemon.commands.bank",
    "serve": "daemon.commands.serve",
    "push": "daemon.commands.push",
    "watch": "daemon.commands.watch",
    "journal": "daemon.commands.journal",
    "keys": "daemon.commands.keys",
    "doctor": "daemon.commands.doctor",
    "bench": "daemon.commands.bench",
    "demo": "daemon.commands.demo",
}


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """The options of every command; `main` reads --debug, since it also says how errors are shown."""


def register(commands: dict[str, str]) -> None:
    """Add each command: a group's module holds `app`, a plain command's a function of the command's name."""
    for name, module_name in commands.items():
        module = importlib.import_module(module_name)
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            body = getattr(module, name, None) or getattr(module, f"{name}_")
            app.command(name)(body)


def open_standard_streams() -> None:
    """Put /dev/null where a standard stream is closed: a file of ours would take its number and get its text."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


def main() -> None:
    """Run the command line; an error made on purpose is one line on stderr and status 1."""
    open_standard_streams()
    register(COMMANDS)
    try:
        app()
    except (PatchcoreError, DaemonError) as error:
        if "--debug" in sys.argv[1:2]:
            raise
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
