"""`patchline bank`: the versions of each recipe's memory bank, and which of them serves."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="List, show, verify, activate and roll back memory banks.")

BanksOption = Annotated[Path, typer.Option(help="The folder of banks.")]
RecipeArgument = Annotated[str, typer.Argument(help="The recipe's name.")]
ConfigOption = Annotated[
    Path | None, typer.Option(help="The running daemon's configuration: it reloads when the bank has changed.")
]

DEFAULT_BANKS = Path("banks")


@app.command("list")
def list_(banks: BanksOption = DEFAULT_BANKS) -> None:
    """List every recipe's versions, oldest first; * marks the active one."""
    from rich.console import Console
    from rich.table import Table

    from patchcore_engine.bank_store import list_versions, recipes
    from patchcore_engine.errors import BankMissingError

    names = recipes(banks)
    if not names:
        raise BankMissingError(f"{banks} holds no memory bank: make one with `patchline fit --banks {banks}`.")
    table = Table("recipe", "version", "active", box=None)
    for name in names:
        for entry in list_versions(banks, name):
            table.add_row(entry.recipe, entry.version, "*" if entry.active else "")
    Console().print(table)


@app.command()
def show(
    recipe: RecipeArgument,
    version: Annotated[str | None, typer.Argument(help="Default: the active version.")] = None,
    banks: BanksOption = DEFAULT_BANKS,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as it is.")] = False,
) -> None:
    """Show what a bank was made of and what it decides by."""
    from rich.console import Console
    from rich.table import Table

    from patchcore_engine.bank import MemoryBank
    from patchcore_engine.bank_store import version_folder

    bank = MemoryBank.load(version_folder(banks, recipe, version))
    manifest = bank.manifest
    if as_json:
        typer.echo(manifest.to_json().decode(), nl=False)
        return
    table = Table(show_header=False, box=None)
    for name, value in {
        "recipe": manifest.recipe,
        "version": bank.version,
        "made": manifest.created,
        "backbone": f"{manifest.backbone}, weights {manifest.weights_digest[:12]}, {manifest.precision}",
        "geometry": f"resize {manifest.resize}, crop {manifest.image_size}",
        "patches": "{} x {}".format(*manifest.grid),
        "good parts": str(manifest.pictures),
        "vectors": f"{manifest.vectors:,} of {manifest.patches:,} patches, {manifest.dimension} numbers each",
        "index": manifest.index,
        "content": f"{manifest.content_digest()[:12]}, equal for the same pictures, settings and seed",
    }.items():
        table.add_row(name, value)
    for name in ("review", "fail", "pixel"):
        entry = getattr(manifest.thresholds, name)
        low, high = entry.interval
        table.add_row(
            f"{name} threshold",
            f"{entry.value:.4g} (95 % interval {low:.4g} .. {high:.4g}) for {entry.rate:.3%} of good parts, "
            f"{entry.method.replace('_', ' ')}",
        )
    Console().print(table)


@app.command()
def verify(
    recipe: Annotated[str | None, typer.Argument(help="Default: every recipe.")] = None,
    banks: BanksOption = DEFAULT_BANKS,
) -> None:
    """Check every version's files against their digests; status 1 when one is damaged."""
    from patchcore_engine.bank import MemoryBank
    from patchcore_engine.bank_store import list_versions, recipes
    from patchcore_engine.errors import BankError, BankMissingError

    entries = [entry for name in ([recipe] if recipe else recipes(banks)) for entry in list_versions(banks, name)]
    if not entries:
        raise BankMissingError(f"{banks / recipe if recipe else banks} holds no memory bank.")
    damaged = 0
    for entry in entries:
        try:
            MemoryBank.load(entry.path)
        except BankError as error:
            damaged += 1
            typer.echo(f"damaged  {entry.recipe}/{entry.version}: {error}")
        else:
            typer.echo(f"ok       {entry.recipe}/{entry.version}")
    raise typer.Exit(1 if damaged else 0)


@app.command()
def activate(
    recipe: RecipeArgument,
    version: Annotated[str, typer.Argument(help="As `patchline bank list` shows it.")],
    banks: BanksOption = DEFAULT_BANKS,
    config: ConfigOption = None,
) -> None:
    """Let a version serve; it is verified first. With --config the running daemon reloads at once."""
    from patchcore_engine import bank_store

    folder = bank_store.activate(banks, recipe, version)
    typer.echo(f"{recipe}: {folder.name} is active.")
    _reload_daemon(config)


@app.command()
def rollback(recipe: RecipeArgument, banks: BanksOption = DEFAULT_BANKS, config: ConfigOption = None) -> None:
    """Go back to the version before the active one. With --config the running daemon reloads at once."""
    from patchcore_engine import bank_store

    folder = bank_store.rollback(banks, recipe)
    typer.echo(f"{recipe}: {folder.name} is active.")
    _reload_daemon(config)


def _reload_daemon(config: Path | None) -> None:
    if config is None:
        typer.echo("A running daemon takes it up on SIGHUP (systemctl reload patchline), or at once with --config.")
        return
    from daemon.config import load_settings
    from daemon.state_folder import signal_reload

    pid = signal_reload(load_settings(config).service.state_dir)
    typer.echo(f"The daemon (process {pid}) reloads: its log and metrics tell the outcome.")
