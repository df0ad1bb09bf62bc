"""`patchline eval`: how well a bank does on pictures whose truth is known."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    from rich.table import Table

    from patchcore_engine.evaluation import Evaluation
    from patchcore_engine.published import PublishedSource


def eval_(
    data: Annotated[Path, typer.Option(help="Folder of categories in MVTec AD's layout.")],
    category: Annotated[str | None, typer.Option(help="The category in --data to judge.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Judge every category in --data.")] = False,
    bank: Annotated[
        Path | None, typer.Option(help="A recipe's folder (its active version) or a version's.", show_default=False)
    ] = None,
    banks: Annotated[
        Path | None, typer.Option(help="With --all: the folder of recipes named like the categories.")
    ] = None,
    report: Annotated[
        Path, typer.Option(help="Folder for report.html; with --all one folder for each category in it.")
    ] = Path("patchline-eval"),
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write everything as JSON.")] = None,
    compare: Annotated[
        Path | None, typer.Option(help="CSV of published figures. Default: those that come along.", show_default=False)
    ] = None,
    weights: WeightsOption = None,
    backbone_file: BackboneFileOption = None,
    skip_unreadable: Annotated[bool, typer.Option(help="Go on past pictures that can't be read.")] = False,
    device: DeviceOption = "CPU",
    device_id: DeviceIdOption = 0,
    engine: EngineOption = "mindspore",
    precision_hint: PrecisionHintOption = "auto",
    search: SearchOption = "faiss",
) -> None:
    """Judge a test set with a bank: AUROC, AUPRO, realised error rates beside the stated ones, and a report."""
    from rich.console import Console

    from daemon.commands.progress_bars import ProgressBars
    from patchcore_engine import datasets
    from patchcore_engine.errors import DataError, PatchcoreError
    from patchcore_engine.evaluate import evaluate
    from patchcore_engine.evaluation import write_json
    from patchcore_engine.evaluation_report import evaluation_report
    from patchcore_engine.path_text import path_text
    from patchcore_engine.published import read_published
    from patchcore_engine.report_parts import write_report

    if (category is None) != every:
        raise typer.BadParameter("Give either --category NAME or --all.")
    if (every and banks is None) or (not every and bank is None):
        raise typer.BadParameter("Name the bank by --bank DIR/RECIPE, or with --all their folder by --banks DIR.")
    published = read_published(compare)
    names = datasets.categories(data) if every else [str(category)]
    extractors = Extractors(
        weights=weights,
        backbone_file=backbone_file,
        device=device,
        device_id=device_id,
        engine=engine,
        precision_hint=precision_hint,
        search=search,
    )
    console = Console()
    evaluations: list[Evaluation] = []
    failed: dict[str, str] = {}
    for name in names:
        try:
            test_set = datasets.evaluation_set(data, name)
            inspector = extractors.inspector(load_bank(banks / name if every and banks else bank or Path()))
            found = evaluate(inspector, test_set, skip_unreadable=skip_unreadable, progress=ProgressBars())
            written = write_report(report / name if every else report, evaluation_report(found, published))
        except PatchcoreError as error:
            if not every:
                raise
            typer.echo(f"{name}: {error}", err=True)
            failed[path_text(name)] = path_text(str(error))
            continue
        evaluations.append(found)
        if not every:
            console.print(_rates_table(found))
            console.print(_comparison_table(found, published))
        console.print(f"report: {path_text(written)}", soft_wrap=True, highlight=False)
    if every:
        console.print(_categories_table(evaluations, published))
    if json_file is not None:
        write_json(json_file, _all_as_json(evaluations, failed) if every else evaluations[0].as_json())
    if failed:
        raise DataError(f"{len(failed)} of {len(names)} categories failed: {', '.join(failed)}.")


def _all_as_json(evaluations: "Sequence[Evaluation]", failed: dict[str, str]) -> dict[str, Any]:
    from patchcore_engine.evaluation import mean_figures

    return mean_figures(evaluations) | {"categories": [e.as_json() for e in evaluations], "failed": failed}


def _rates_table(evaluation: "Evaluation") -> "Table":
    from rich.table import Table

    from patchcore_engine.evaluation import percent

    table = Table(title=f"{evaluation.category} with bank {evaluation.recipe}/{evaluation.bank_version}")
    for name in ("", "parts", "share", "95 % interval", "stated"):
        table.add_column(name, justify="left" if not name else "right")
    for name, rate, stated in (
        ("good parts that fail", evaluation.false_rejects, percent(evaluation.stated_fail_rate)),
        ("good parts that fail or need a review", evaluation.reviews, percent(evaluation.stated_review_rate)),
        ("defective parts that pass", evaluation.misses, ""),
    ):
        interval = f"{percent(rate.low)} to {percent(rate.high)}"
        table.add_row(name, f"{rate.count} of {rate.total}", percent(rate.value), interval, stated)
    if evaluation.skipped:
        table.caption = f"{len(evaluation.skipped)} unreadable pictures were left out"
    return table


def _comparison_table(evaluation: "Evaluation", published: "Sequence[PublishedSource]") -> "Table":
    from rich.table import Table

    table = Table()
    table.add_column("")
    for name in ("image AUROC", "pixel AUROC", "AUPRO", "F1-max"):
        table.add_column(name, justify="right")
    own = (evaluation.image_auroc, evaluation.pixel_auroc, evaluation.aupro, evaluation.f1_max)
    table.add_row("this bank", *map(_figure, own), style="bold")
    for source in published:
        theirs = source.figures.get(evaluation.category)
        if theirs is not None:
            table.add_row(source.title, *map(_figure, (theirs.image_auroc, theirs.pixel_auroc, theirs.aupro, None)))
    return table


def _categories_table(evaluations: "Sequence[Evaluation]", published: "Sequence[PublishedSource]") -> "Table":
    from rich.table import Table

    from patchcore_engine.evaluation import mean_figures, percent

    shown = [source for source in published if any(e.category in source.figures for e in evaluations)]
    table = Table(caption="Published columns: image / pixel AUROC. " + "; ".join(f"{s.name}: {s.title}" for s in shown))
    table.add_column("category")
    for name in ("image AUROC", "pixel AUROC", "AUPRO", "false rejects", "misses", *(s.name for s in shown)):
        table.add_column(name, justify="right")
    for evaluation in evaluations:
        theirs = [source.figures.get(evaluation.category) for source in shown]
        table.add_row(
            evaluation.category,
            *map(_figure, (evaluation.image_auroc, evaluation.pixel_auroc, evaluation.aupro)),
            percent(evaluation.false_rejects.value),
            percent(evaluation.misses.value),
            *(f"{_figure(t.image_auroc)} / {_figure(t.pixel_auroc)}" if t else "-" for t in theirs),
        )
    if len(evaluations) > 1:
        means = mean_figures(evaluations)
        table.add_section()
        table.add_row("mean", *(_figure(means[key]) for key in ("image_auroc", "pixel_auroc", "aupro")), style="bold")
    return table


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
