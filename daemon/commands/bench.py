"""`patchline bench`: what an inspection costs on this host, step by step."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from daemon.commands.extractors import (
    BackboneFileOption,
    DeviceIdOption,
    DeviceOption,
    Extractors,
    Precision,
    load_bank,
)


def bench(
    bank: Annotated[
        Path | None,
        typer.Option(
            help="Time this bank, a recipe's folder or a version's, with its own backbone.", show_default=False
        ),
    ] = None,
    backbone: Annotated[str, typer.Option(help="Without --bank: this backbone.")] = "efficientnet_lite0",
    vectors: Annotated[int, typer.Option(min=16, help="Without --bank: a made-up bank of this many vectors.")] = 1638,
    weights: Annotated[
        str | None,
        typer.Option(
            help="A .pth or .ckpt file, or random:SEED. Default: with --bank the published weights, else random ones, "
            "which cost the same.",
            show_default=False,
        ),
    ] = None,
    backbone_file: BackboneFileOption = None,
    repeats: Annotated[int, typer.Option(min=1, help="Batches of each size; medians are shown.")] = 10,
    device: DeviceOption = "CPU",
    device_id: DeviceIdOption = 0,
    precision: Annotated[Precision, typer.Option(help="Without --bank; float16 needs an Ascend device.")] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line for each batch size.")] = False,
) -> None:
    """Time decoding, network, search and scoring for each batch size, with nothing else running."""
    from rich.console import Console
    from rich.table import Table

    from daemon.commands.progress_bars import ProgressBars
    from patchcore_engine.benchmark import noise_bank, time_inspection
    from patchcore_engine.fit_job import geometry_for
    from patchcore_engine.inspector import Inspector

    if bank is None and backbone_file is None and weights is None:
        weights = "random:0"
    extractors = Extractors(weights=weights, backbone_file=backbone_file, device=device, device_id=device_id)
    if bank is not None:
        inspector = extractors.inspector(load_bank(bank))
    else:
        geometry = geometry_for(backbone, resize=None, image_size=None)
        extractor = extractors.open(backbone, geometry, "paper", precision)
        inspector = Inspector(extractor, noise_bank(extractor, geometry, vectors, ProgressBars()))
    manifest = inspector.bank.manifest
    table = Table(
        title=f"{manifest.backbone} at {manifest.image_size} px, bank of {len(inspector.bank.index):,} x "
        f"{manifest.dimension} on {device}; milliseconds per picture",
        caption="decode and resize run beside the engine, one batch ahead",
    )
    for name in ("batch", "decode and resize", "network", "search", "score and map", "all", "pictures/s"):
        table.add_column(name, justify="right")
    for timing in time_inspection(inspector, repeats):
        if as_json:
            figures = {"total": timing.total, "pictures_per_second": timing.pictures_per_second}
            typer.echo(json.dumps(asdict(timing) | figures))
        steps = (timing.prepare, timing.embed, timing.search, timing.score, timing.total)
        table.add_row(str(timing.batch), *(f"{step:.1f}" for step in steps), f"{timing.pictures_per_second:.1f}")
    if not as_json:
        Console().print(table)
