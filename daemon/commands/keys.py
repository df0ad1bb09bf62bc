"""`patchline keys`: make key pairs for the daemon, cameras and subscribers, and show the public ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Make and show the keys of doors that ask for them (\\[security]).")


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Whose key it is: the daemon's, a camera's, a line controller's.")],
    folder: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where NAME.key and NAME.pub go.")] = Path(),
) -> None:
    """Make a key pair: NAME.key stays with its owner, the line in NAME.pub goes into the other side's files."""
    from daemon.keys import new_key

    secret, public = new_key(name, folder)
    typer.echo(f"{secret}  the secret key: for {name} alone.")
    typer.echo(f"{public}  the public key, for the list of those who may connect, or for those who connect to {name}:")
    typer.echo(public.read_text(encoding="utf-8"), nl=False)


@app.command()
def show(
    file: Annotated[Path | None, typer.Argument(help="A .key, .pub or list; else the configuration's.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="The configuration whose keys to show; else config.toml in this folder.")
    ] = None,
) -> None:
    """Show public keys with their names, one a line as a list holds them; a secret key is never shown."""
    from daemon.config import load_settings
    from daemon.endpoints import DEFAULT_CONFIG
    from daemon.keys import SECRET_SUFFIX, read_allow_list, read_secret_key
    from daemon.security import read_door_keys

    if file is not None and file.suffix == SECRET_SUFFIX:
        own = read_secret_key(file)
        typer.echo(f"{own.public.decode()} {own.name}")
        return
    if file is not None:
        _print_list(read_allow_list(file))
        return
    keys = read_door_keys(load_settings(config or DEFAULT_CONFIG).security)
    if keys is None:
        typer.echo("The configuration names no keys: its doors ask nobody for one.")
        return
    typer.echo("# security.server_key, the public half: what clients know the daemon by")
    typer.echo(f"{keys.own.public.decode()} {keys.own.name}")
    for name, peers in keys.lists.items():
        typer.echo(f"# security.{name}")
        _print_list(peers)


def _print_list(peers: Mapping[bytes, str]) -> None:
    from zmq.utils import z85

    for key, name in peers.items():
        typer.echo(f"{z85.encode(key).decode()} {name}".rstrip())
