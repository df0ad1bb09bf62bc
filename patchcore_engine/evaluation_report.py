"""The report of an evaluation: how well a bank does on a test set, for people to look at."""

from collections.abc import Sequence

import numpy as np

from patchcore_engine import plots
from patchcore_engine import report_parts as parts
from patchcore_engine.evaluation import Evaluation, percent
from patchcore_engine.metrics import AUPRO_LIMIT, Rate
from patchcore_engine.published import PublishedSource
from patchcore_engine.report_parts import Figure

_KIND_COLUMNS = ("Kind", "Parts", "Pass", "Review", "Fail", "Lowest score", "Median score")


def evaluation_report(evaluation: Evaluation, published: Sequence[PublishedSource] = ()) -> str:
    """Return the report as one HTML page that needs no other file."""
    good, defective = evaluation.scores(good=True), evaluation.scores(good=False)
    missed = any(e.result.outcome == "pass" for e in evaluation.lowest_defective)
    rejected = any(e.result.outcome != "pass" for e in evaluation.highest_good)
    histograms = plots.score_histograms(
        [
            ("Calibration", evaluation.calibration_scores, plots.CALIBRATION),
            ("Good test parts", good, plots.GOOD),
            ("Defective test parts", defective, plots.DEFECT),
        ],
        review=evaluation.review_threshold,
        fail=evaluation.fail_threshold,
    )
    return parts.page(
        f"{evaluation.category}: evaluation",
        f"Bank {evaluation.recipe}/{evaluation.bank_version} on {len(good)} good and {len(defective)} defective parts"
        + (f", {len(evaluation.skipped)} unreadable pictures left out" if evaluation.skipped else ""),
        [
            parts.figure_row(_headline(evaluation)),
            parts.section(
                "Scores",
                "Good parts belong left of the review threshold, defective ones right of it. "
                "Calibration scores are the training parts', each judged without its own patches.",
                parts.plot(histograms),
            ),
            parts.section(
                "By kind of defect",
                "A missed part is a defective one with the outcome pass.",
                parts.table(_KIND_COLUMNS, _kinds(evaluation)),
            ),
            parts.section(
                "Curves",
                "Defective parts, and defective pixels, found at each rate of false alarms; and the share of each "
                f"defect's area that is found, up to the rate of {AUPRO_LIMIT} that MVTec AD integrates to.",
                parts.plots_side_by_side(_curves(evaluation)),
            ),
            parts.section(
                "Worst misses" if missed else "No misses: the defective parts with the lowest scores",
                "The picture, and its heat map with the edge of the true defect in white; lowest score first.",
                parts.example_gallery(evaluation.lowest_defective),
            ),
            parts.section(
                "Worst false alarms" if rejected else "No false alarms: the good parts with the highest scores",
                "The picture and its heat map; highest score first.",
                parts.example_gallery(evaluation.highest_good),
            ),
            _comparison(evaluation, published),
            parts.settings_section(evaluation.settings),
            parts.section("Times", "Wall time of this evaluation.", parts.settings_list(_times(evaluation))),
        ],
    )


def _headline(evaluation: Evaluation) -> list[Figure]:
    false_rejects, reviews, misses = evaluation.false_rejects, evaluation.reviews, evaluation.misses
    return [
        Figure("Image AUROC", parts.score_text(evaluation.image_auroc)),
        Figure("Pixel AUROC", parts.score_text(evaluation.pixel_auroc)),
        Figure("AUPRO", parts.score_text(evaluation.aupro), f"to {AUPRO_LIMIT} false positives"),
        Figure("F1-max", parts.score_text(evaluation.f1_max)),
        Figure("False rejects", percent(false_rejects.value), _rate_note(false_rejects, evaluation.stated_fail_rate)),
        Figure("Good, reviewed or failed", percent(reviews.value), _rate_note(reviews, evaluation.stated_review_rate)),
        Figure("Misses", percent(misses.value), _rate_note(misses, None)),
        Figure("Time a picture", f"{evaluation.times.total / len(evaluation.pictures) * 1000:.0f} ms", "on this host"),
    ]


def _rate_note(rate: Rate, stated: float | None) -> str:
    note = f"{rate.count} of {rate.total}, 95 %: {percent(rate.low)} to {percent(rate.high)}"
    return note if stated is None else f"{note}; stated {percent(stated)}"


def _kinds(evaluation: Evaluation) -> list[list[str]]:
    rows = []
    for kind in dict.fromkeys(p.defect for p in evaluation.pictures):
        pictures = [p for p in evaluation.pictures if p.defect == kind]
        counts = [sum(p.outcome == outcome for p in pictures) for outcome in ("pass", "review", "fail")]
        scores = [p.score for p in pictures]
        rows.append(
            [kind, str(len(pictures)), *map(str, counts), f"{min(scores):.3f}", f"{float(np.median(scores)):.3f}"]
        )
    return rows


def _curves(evaluation: Evaluation) -> list[str]:
    drawn = []
    rocs = [
        (f"{name}, AUROC {parts.score_text(area)}", curve, colour)
        for name, curve, area, colour in (
            ("Parts", evaluation.image_roc, evaluation.image_auroc, plots.DEFECT),
            ("Pixels", evaluation.pixel_roc, evaluation.pixel_auroc, plots.GOOD),
        )
        if curve is not None
    ]
    if rocs:
        drawn.append(plots.roc_curves(rocs))
    if evaluation.pro is not None:
        drawn.append(
            plots.overlap_curve(f"AUPRO {parts.score_text(evaluation.aupro)}", evaluation.pro, limit=AUPRO_LIMIT)
        )
    return drawn


def _comparison(evaluation: Evaluation, published: Sequence[PublishedSource]) -> str:
    rows = [["This bank", *map(parts.score_text, (evaluation.image_auroc, evaluation.pixel_auroc, evaluation.aupro))]]
    for source in published:
        figures = source.figures.get(evaluation.category)
        if figures is not None:
            rows.append(
                [source.title, *map(parts.score_text, (figures.image_auroc, figures.pixel_auroc, figures.aupro))]
            )
    if len(rows) == 1:
        return ""
    return parts.section(
        "Beside published figures",
        "Other backbones, picture sizes and coresets: an orientation, not a contest.",
        parts.table(["Source", "Image AUROC", "Pixel AUROC", "AUPRO"], rows, own=0),
    )


def _times(evaluation: Evaluation) -> list[tuple[str, str]]:
    times, count = evaluation.times, len(evaluation.pictures)
    steps = [
        ("Decoding and cropping", times.decode),
        ("Backbone", times.embed),
        ("Nearest neighbours", times.search),
        ("Scores and maps", times.score),
        ("In all", times.total),
    ]
    return [(name, f"{seconds:.2f} s, {seconds / count * 1000:.1f} ms a picture") for name, seconds in steps]
