"""The report of a fit: what a bank was made of and where it draws the line, for people to look at."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from patchcore_engine import plots
from patchcore_engine import report_parts as parts
from patchcore_engine.evaluation import percent
from patchcore_engine.fit import FitResult
from patchcore_engine.images import read
from patchcore_engine.manifest import Manifest, ThresholdEntry
from patchcore_engine.path_text import path_text
from patchcore_engine.report_parts import Figure

_UNUSUAL = 6
_THRESHOLD_METHODS = {"empirical": "from the good parts", "generalised_pareto": "Pareto tail fit"}
_THRESHOLD_COLUMNS = ("Threshold", "Value", "95 % interval", "Stated rate", "Method", "Parts at or above")


def fit_report(result: FitResult, version: str) -> str:
    """Return the report as one HTML page that needs no other file. `version`: under which the bank was saved."""
    bank = result.bank
    manifest = bank.manifest
    thresholds = manifest.thresholds
    scores = bank.calibration_scores
    histogram = plots.score_histograms(
        [("Calibration", scores, plots.CALIBRATION)], review=thresholds.review.value, fail=thresholds.fail.value
    )
    preview = parts.picture(bank.preview, "A good part beside its heat map") if bank.preview else ""
    return parts.page(
        f"{manifest.recipe}: memory bank",
        f"Version {version}, made {manifest.created}",
        [
            parts.figure_row(
                [
                    Figure("Good parts", f"{manifest.pictures:,}", _skipped_note(manifest.skipped)),
                    Figure("Vectors kept", f"{manifest.vectors:,}", _kept_note(manifest)),
                    _threshold_figure("Review threshold", thresholds.review),
                    _threshold_figure("Fail threshold", thresholds.fail),
                    Figure("Time", f"{sum(manifest.seconds.values()):.1f} s", "all steps"),
                ]
            ),
            parts.section(
                "Calibration",
                f"Scores of {_calibrated(manifest)}, each judged without its own patches. The thresholds are the "
                "scores that good parts reach at the stated rates.",
                parts.plot(histogram),
                parts.table(
                    _THRESHOLD_COLUMNS,
                    [
                        _threshold_row("Review", thresholds.review, int(np.sum(scores >= thresholds.review.value))),
                        _threshold_row("Fail", thresholds.fail, int(np.sum(scores >= thresholds.fail.value))),
                        _threshold_row("Pixel (heat map)", thresholds.pixel, None),
                    ],
                ),
            ),
            parts.section(
                "Most unusual good parts",
                "The training parts with the highest scores. If one of them isn't good, take it out and fit anew.",
                parts.picture_gallery(_most_unusual(result)),
            ),
            parts.section(
                "A good part and its heat map",
                "The scale is fixed for the bank: a colour means the same on every part.",
                f'<figure class="single">{preview}</figure>' if preview else "",
            ),
            parts.settings_section(manifest.model_dump()),
            parts.section(
                "Times",
                "Wall time of each step.",
                parts.settings_list((name.capitalize(), f"{took:.1f} s") for name, took in manifest.seconds.items()),
            ),
        ],
    )


def _most_unusual(result: FitResult) -> Iterator[tuple[NDArray[np.uint8], str, str]]:
    geometry = result.bank.manifest.geometry
    for position in np.argsort(-result.picture_scores)[:_UNUSUAL]:
        path = result.calibrated[position]
        yield geometry.prepare(read(path)).pixels, f"score {result.picture_scores[position]:.3f}", path_text(path.name)


def _threshold_figure(name: str, entry: ThresholdEntry) -> Figure:
    note = f"{percent(entry.rate)} of good parts, {_THRESHOLD_METHODS[entry.method]}"
    return Figure(name, f"{entry.value:.3f}", note)


def _threshold_row(name: str, entry: ThresholdEntry, reached: int | None) -> list[str]:
    low, high = entry.interval
    method = _THRESHOLD_METHODS[entry.method]
    count = "" if reached is None else str(reached)
    return [name, f"{entry.value:.3f}", f"{low:.3f} to {high:.3f}", percent(entry.rate), method, count]


def _kept_note(manifest: Manifest) -> str:
    merge = manifest.coreset_merge
    how = "" if merge is None else f", merged from chunks of {merge.chunk_pictures} pictures"
    return f"of {manifest.patches:,} patches{how}"


def _calibrated(manifest: Manifest) -> str:
    if manifest.calibrated is None:
        return "the training parts"
    return f"{manifest.calibrated:,} of the {manifest.pictures:,} training parts, evenly drawn"


def _skipped_note(skipped: Sequence[str]) -> str:
    return f"{len(skipped)} unreadable, skipped" if skipped else "all readable"
