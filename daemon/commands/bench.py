"""`patchline bench`: what an inspection costs on this host, and the project's benchmarks from a source checkout."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from daemon.commands.extractors import (
    BackboneFileOption,
    DeviceIdOption,
    DeviceOption,
    EngineOption,
    Extractors,
    Precision,
    PrecisionHintOption,
    SearchOption,
    load_bank,
)
from daemon.errors import ConfigError

Name = Literal[
    "inspection", "backbone", "coreset", "search", "pipeline", "codecs", "keys", "ready", "scale", "journal", "all"
]
CHECKOUT: Final = Path(__file__).resolve().parents[2]


def bench(
    name: Annotated[
        Name,
        typer.Argument(help="inspection times each step with nothing else running; the others need a source checkout."),
    ] = "inspection",
    as_json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures to FILE.", show_default=False)
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="The large sizes too: minutes to hours.")] = False,
    rounds: Annotated[int | None, typer.Option(min=1, help="Turns of each contestant.", show_default=False)] = None,
    torch_python: Annotated[
        Path | None, typer.Option(help="A Python with torch, to compare with.", show_default=False)
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(help="search, coreset: a folder of good pictures, for real patches.", show_default=False),
    ] = None,
    bank: Annotated[
        Path | None,
        typer.Option(
            help="inspection: time this bank, a recipe's folder or a version's, with its own backbone.",
            show_default=False,
        ),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Only this backbone; inspection: efficientnet_lite0.", show_default=False)
    ] = None,
    vectors: Annotated[int, typer.Option(min=16, help="inspection: size of the made-up bank.")] = 1638,
    weights: Annotated[
        str | None,
        typer.Option(
            help="inspection: a .pth or .ckpt file, or random:SEED. Default: with --bank the published weights, else "
            "random ones, which cost the same.",
            show_default=False,
        ),
    ] = None,
    backbone_file: BackboneFileOption = None,
    device: DeviceOption = "CPU",
    device_id: DeviceIdOption = 0,
    engine: EngineOption = "mindspore",
    precision_hint: PrecisionHintOption = "auto",
    search: SearchOption = "faiss",
    precision: Annotated[Precision, typer.Option(help="inspection: float16 needs an Ascend device.")] = "float32",
) -> None:
    """Measure speed: of an inspection on this host, or of any part of the project; docs/performance.md reads them."""
    if name != "inspection":
        _run_from_checkout(name, as_json, full, rounds, torch_python, backbone, pictures)
        return
    if bank is None and backbone_file is None and weights is None:
        weights = "random:0"
    extractors = Extractors(
        weights=weights,
        backbone_file=backbone_file,
        device=device,
        device_id=device_id,
        engine=engine,
        precision_hint=precision_hint,
        search=search,
    )
    _time_inspection(extractors, bank, backbone or "efficientnet_lite0", vectors, precision, rounds or 10, as_json)


def _run_from_checkout(
    name: str,
    as_json: Path | None,
    full: bool,
    rounds: int | None,
    torch_python: Path | None,
    backbone: str | None,
    pictures: Path | None,
) -> None:
    if not (CHECKOUT / "tests" / "benchmarks" / "__main__.py").is_file():
        raise ConfigError(
            f"The benchmark {name} is part of the source and not installed: run `make bench` in a source checkout. "
            "`patchline bench inspection` works everywhere."
        )
    command = [sys.executable, "-m", "tests.benchmarks", name]
    command += ["--full"] if full else []
    # The benchmarks run with the checkout as their folder.
    command += ["--json", str(as_json.absolute())] if as_json is not None else []
    command += ["--rounds", str(rounds)] if rounds is not None else []
    command += ["--torch-python", str(torch_python.absolute())] if torch_python is not None else []
    command += ["--pictures", str(pictures.absolute())] if pictures is not None else []
    command += ["--backbone", backbone] if backbone is not None else []
    status = subprocess.run(command, cwd=CHECKOUT, check=False).returncode  # noqa: S603  # nosec B603  # (ours)
    if status:
        raise typer.Exit(status)


def _time_inspection(
    extractors: Extractors,
    bank: Path | None,
    backbone: str,
    vectors: int,
    precision: Precision,
    rounds: int,
    as_json: Path | None,
) -> None:
    from rich.console import Console
    from rich.table import Table

    from daemon.commands.progress_bars import ProgressBars
    from patchcore_engine.benchmark import noise_bank, time_inspection
    from patchcore_engine.fit_job import geometry_for
    from patchcore_engine.inspector import Inspector

    if bank is not None:
        inspector = extractors.inspector(load_bank(bank))
    else:
        geometry = geometry_for(backbone, resize=None, image_size=None)
        extractor = extractors.open(backbone, geometry, "paper", precision)
        inspector = Inspector(extractor, noise_bank(extractor, geometry, vectors, ProgressBars()))
    manifest = inspector.bank.manifest
    table = Table(
        title=f"{manifest.backbone} at {manifest.image_size} px, bank of {len(inspector.bank.index):,} x "
        f"{manifest.dimension} on {extractors.device}; milliseconds per picture",
        caption="decode and resize run beside the engine, one batch ahead",
    )
    for heading in ("batch", "decode and resize", "network", "search", "score and map", "all", "pictures/s"):
        table.add_column(heading, justify="right")
    rows = []
    for timing in time_inspection(inspector, rounds):
        rows.append(asdict(timing) | {"total": timing.total, "pictures_per_second": timing.pictures_per_second})
        steps = (timing.prepare, timing.embed, timing.search, timing.score, timing.total)
        table.add_row(str(timing.batch), *(f"{step:.1f}" for step in steps), f"{timing.pictures_per_second:.1f}")
    Console().print(table)
    if as_json is not None:
        as_json.write_text(json.dumps({"rows": rows}, indent=2) + "\n", encoding="utf-8")
