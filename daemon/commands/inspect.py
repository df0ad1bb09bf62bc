"""`patchline inspect`: one-shot verdicts on pictures, for a person at a desk."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from daemon.commands.extractors import (
    BackboneFileOption,
    DeviceIdOption,
    DeviceOption,
    EngineOption,
    Extractors,
    PrecisionHintOption,
    SearchOption,
    WeightsOption,
    load_bank,
)

_STYLES = {"pass": "green", "review": "yellow", "fail": "red"}


def inspect(
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURE...", help="Pictures, or folders of pictures.")],
    bank: Annotated[Path, typer.Option(help="A recipe's folder (its active version) or a version's.")],
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for the pictures with their heat maps, not their own.", show_default=False),
    ] = None,
    weights: WeightsOption = None,
    backbone_file: BackboneFileOption = None,
    device: DeviceOption = "CPU",
    device_id: DeviceIdOption = 0,
    engine: EngineOption = "mindspore",
    precision_hint: PrecisionHintOption = "auto",
    search: SearchOption = "faiss",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line for each picture.")] = False,
) -> None:
    """Judge pictures with a bank and show the verdicts; a picture that can't be read gives status 1."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from patchcore_engine.errors import DataError
    from patchcore_engine.inspect_files import check_output, inspect_files, pictures_in
    from patchcore_engine.path_text import path_text

    paths = pictures_in(pictures)
    if output is not None:
        check_output(output, paths)
    loaded = load_bank(bank)
    inspector = Extractors(
        weights=weights,
        backbone_file=backbone_file,
        device=device,
        device_id=device_id,
        engine=engine,
        precision_hint=precision_hint,
        search=search,
    ).inspector(loaded)
    thresholds = loaded.manifest.thresholds
    table = Table(
        title=f"Bank {loaded.manifest.recipe}/{loaded.version}",
        caption=f"review from {thresholds.review.value:.4f}, fail from {thresholds.fail.value:.4f}",
    )
    for name in ("picture", "verdict", "score", "p-value", "regions", "worst region"):
        table.add_column(name, justify="right" if name in {"score", "p-value", "regions"} else "left", overflow="fold")
    unreadable = 0
    for found in inspect_files(inspector, paths, output):
        unreadable += found.inspection is None
        if as_json:
            typer.echo(json.dumps(found.as_json()))
        elif found.inspection is None:
            table.add_row(_short(found.path), "[red]not inspected[/]", "", "", "", escape(found.error))
        else:
            table.add_row(_short(found.path), *_cells(found.as_json()))
    if not as_json:
        Console().print(table)
        if output is not None:
            typer.echo(f"heat maps: {path_text(output)}")
    if unreadable:
        raise DataError(f"{unreadable} of {len(paths)} pictures couldn't be inspected.")


def _short(path: Path) -> str:
    """Return folder and name, enough to know a picture by and short enough for a table."""
    from rich.markup import escape

    from patchcore_engine.path_text import path_text

    return escape(path_text(Path(*path.parts[-2:])))


def _cells(found: dict[str, Any]) -> list[str]:
    outcome, regions = found["verdict"], found["regions"]
    worst = regions[0] if regions else None
    return [
        f"[{_STYLES[outcome]}]{outcome}[/]",
        f"{found['score']:.4f}",
        f"{found['p_value']:.4f}",
        str(len(regions)),
        f"{worst['width']} x {worst['height']} at {worst['x']}, {worst['y']}" if worst else "",
    ]
