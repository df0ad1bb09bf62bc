"""Published figures to stand beside our own.

A CSV file: a column `category`, and columns `<source>_<figure>` where the figure is image_auroc, pixel_auroc or pro.
Lines `# <source>: <title>` before the header name the sources.
"""

import csv
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from patchcore_engine.errors import DataError

_SUFFIXES = {"_image_auroc": "image_auroc", "_pixel_auroc": "pixel_auroc", "_pro": "aupro"}


@dataclass(frozen=True, slots=True)
class PublishedFigures:
    """The figures of one source for one category, each from 0 to 1; None where it states none."""

    image_auroc: float | None = None
    pixel_auroc: float | None = None
    aupro: float | None = None


@dataclass(frozen=True, slots=True)
class PublishedSource:
    """One source: its short name, its title, and its figures by category."""

    name: str
    title: str
    figures: dict[str, PublishedFigures]


def read_published(path: Path | None = None) -> list[PublishedSource]:
    """Read the figures in `path`, by default those that come with the package. Raises DataError."""
    source = path or files("patchcore_engine") / "published_figures.csv"
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source} can't be read as a CSV file of figures.") from error
    titles = dict(line[1:].strip().split(": ", 1) for line in lines if line.startswith("#") and ": " in line)
    rows = list(csv.DictReader(line for line in lines if line.strip() and not line.startswith("#")))
    columns = [c for c in (rows[0] if rows else ()) if c and c != "category"]
    if not columns or "category" not in rows[0]:
        raise DataError(f"{source} has no column category beside columns such as anomalib_wr50_image_auroc.")
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for column in columns:
        suffix = next((s for s in _SUFFIXES if column.endswith(s)), None)
        if suffix is None:
            raise DataError(f"{source}: column {column} must end in _image_auroc, _pixel_auroc or _pro.")
        by_category = figures.setdefault(column.removesuffix(suffix), {})
        for row in rows:
            if row[column]:
                by_category.setdefault(row["category"], {})[_SUFFIXES[suffix]] = _number(row[column], column, source)
    return [
        PublishedSource(name, titles.get(name, name), {c: PublishedFigures(**f) for c, f in by_category.items()})
        for name, by_category in figures.items()
    ]


def _number(text: str, column: str, source: object) -> float:
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{source}: {text!r} in column {column} is no number.") from None
