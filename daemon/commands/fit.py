"""`patchline fit`: from pictures of good parts to a calibrated memory bank."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    WeightsOption,
)

if TYPE_CHECKING:
    from patchcore_engine.fit_job import FittedBank
    from patchcore_engine.manifest import ThresholdEntry

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_size(text: str) -> int:
    """Return the bytes that "500M", "4G", "4 GiB" or "1000000" stands for; units are powers of 1024."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise typer.BadParameter(f"{text!r} is no size in bytes such as 500M or 4G.")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def fit(
    banks: Annotated[Path, typer.Option(help="Folder for the banks: the new one goes to BANKS/RECIPE/VERSION.")],
    data: Annotated[Path | None, typer.Option(help="Folder of categories in MVTec AD's layout.")] = None,
    category: Annotated[str | None, typer.Option(help="The category in --data to learn.")] = None,
    good: Annotated[Path | None, typer.Option(help="A plain folder of pictures of good parts.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Learn every category in --data.")] = False,
    recipe: Annotated[
        str | None, typer.Option(help="The bank's name. Default: the category's or folder's.", show_default=False)
    ] = None,
    backbone: Annotated[str, typer.Option(help="efficientnet_lite0, wide_resnet50_2, ...")] = "efficientnet_lite0",
    weights: WeightsOption = None,
    backbone_file: BackboneFileOption = None,
    coreset_ratio: Annotated[float, typer.Option(help="Share of all patches to keep.")] = 0.01,
    image_size: Annotated[
        int | None, typer.Option(help="Crop, pixels. Default: the backbone's.", show_default=False)
    ] = None,
    resize: Annotated[
        int | None, typer.Option(help="Shorter side before the crop, pixels.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="The same inputs and seed give the same bank.")] = 0,
    index: Annotated[
        Literal["auto", "flat", "pca"],
        typer.Option(help="How the bank is searched; every kind is exact, auto takes the cheapest."),
    ] = "auto",
    score_mode: Annotated[
        Literal["paper", "modelzoo"], typer.Option(help="modelzoo is there for comparison.")
    ] = "paper",
    embedding: Annotated[Literal["paper", "modelzoo"], typer.Option(help="How features are joined.")] = "paper",
    reweight: Annotated[bool, typer.Option(help="Weigh the score by its neighbourhood in the bank.")] = True,
    fail_rate: Annotated[float, typer.Option(help="Share of good parts that may fail.")] = 0.001,
    review_rate: Annotated[float, typer.Option(help="Share of good parts that may need a review.")] = 0.01,
    calibration_pictures: Annotated[
        int, typer.Option(min=10, help="Of more pictures than this an even share is scored for the thresholds.")
    ] = 1000,
    memory_limit: Annotated[
        int | None,
        typer.Option(
            parser=parse_size,
            metavar="SIZE",
            help="Memory for patches, e.g. 4G; beyond it they go to disk, below TMPDIR. Default: 1.5 GB, and up to "
            "half of the free memory where the disk has no room.",
            show_default=False,
        ),
    ] = None,
    skip_unreadable: Annotated[bool, typer.Option(help="Go on past pictures that can't be read.")] = False,
    device: DeviceOption = "CPU",
    device_id: DeviceIdOption = 0,
    engine: EngineOption = "mindspore",
    precision_hint: PrecisionHintOption = "auto",
    search: SearchOption = "faiss",
    precision: Annotated[Precision, typer.Option(help="float16 needs an Ascend device.")] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Learn what good parts look like: build a memory bank, calibrate it and make it the active one."""
    from daemon.commands.progress_bars import ProgressBars
    from patchcore_engine import datasets
    from patchcore_engine.bank_store import check_recipe
    from patchcore_engine.errors import DataError, PatchcoreError
    from patchcore_engine.fit import FitSettings
    from patchcore_engine.fit_job import fit_and_activate, geometry_for

    if (good is None) == (data is None):
        raise typer.BadParameter("Name the pictures by --data DIR with --category NAME or --all, or by --good DIR.")
    if data is not None and (category is None) != every:
        raise typer.BadParameter("With --data give either --category NAME or --all.")
    if every and recipe is not None:
        raise typer.BadParameter("With --all each bank has its category's name: leave --recipe out.")
    jobs: list[tuple[str, Path | None]]
    if good is not None:
        jobs = [(recipe or good.resolve().name, None)]
    elif every and data is not None:
        jobs = [(name, data) for name in datasets.categories(data)]
    else:
        jobs = [(recipe or str(category), data)]
    extractors = Extractors(
        weights=weights,
        backbone_file=backbone_file,
        device=device,
        device_id=device_id,
        engine=engine,
        precision_hint=precision_hint,
        search=search,
    )
    results: list[dict[str, Any]] = []
    failed: list[str] = []
    for name, folder in jobs:
        try:
            check_recipe(name)
            if folder is None:
                pictures = datasets.good_pictures(good or Path())
            else:
                pictures = datasets.training_pictures(folder, name if every else str(category))
            settings = FitSettings(
                recipe=name,
                geometry=geometry_for(backbone, resize=resize, image_size=image_size),
                coreset_ratio=coreset_ratio,
                index=index,
                score_mode=score_mode,
                reweight=reweight,
                review_rate=review_rate,
                fail_rate=fail_rate,
                seed=seed,
                calibration_pictures=calibration_pictures,
                memory_limit=memory_limit,
                skip_unreadable=skip_unreadable,
            )
            extractor = extractors.open(backbone, settings.geometry, embedding, precision)
            fitted = fit_and_activate(pictures, extractor, settings, banks, ProgressBars())
            results.append(fitted.as_json())
            if not as_json:
                _show(fitted)
        except PatchcoreError as error:
            if not every:
                raise
            typer.echo(f"{name}: {error}", err=True)
            failed.append(name)
    if as_json:
        typer.echo(json.dumps(results if every else results[0], indent=2))
    if failed:
        raise DataError(f"{len(failed)} of {len(jobs)} categories failed: {', '.join(failed)}.")


def _show(fitted: "FittedBank") -> None:
    from rich.console import Console
    from rich.table import Table

    from patchcore_engine.path_text import path_text

    manifest = fitted.result.bank.manifest
    table = Table(
        title=f"Bank {manifest.recipe}", title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0)
    )
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    skipped = f", {len(manifest.skipped)} unreadable skipped" if manifest.skipped else ""
    table.add_row("good pictures", f"{manifest.pictures:,}{skipped}")
    table.add_row("patches", f"{manifest.patches:,}, {manifest.vectors:,} vectors kept")
    table.add_row("review threshold", _threshold(manifest.thresholds.review))
    table.add_row("fail threshold", _threshold(manifest.thresholds.fail))
    share = "the" if manifest.calibrated is None else f"{manifest.calibrated:,} of the"
    table.add_row("calibration", f"leave-one-out on {share} good pictures")
    table.add_row("time", ", ".join(f"{name} {seconds:.1f} s" for name, seconds in manifest.seconds.items()))
    table.add_row("bank", path_text(fitted.path))
    table.add_row("report", path_text(fitted.report))
    Console().print(table)


def _threshold(entry: "ThresholdEntry") -> str:
    low, high = entry.interval
    method = {"empirical": "counted", "generalised_pareto": "Pareto tail"}[entry.method]
    return f"{entry.value:.4f} for {entry.rate:.3%} of good parts ({method}; 95 %: {low:.4f} to {high:.4f})"
