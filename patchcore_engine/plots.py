"""Plots as SVG that takes its colours from the page around it, so that light, dark and print all read well."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from patchcore_engine.metrics import Curve

# matplotlib writes these colours, the page's stylesheet says what they are.
_VARIABLES: Final = {
    "#000001": "--ink",
    "#000002": "--muted",
    "#000003": "--rule",
    "#000004": "--good",
    "#000005": "--defect",
    "#000006": "--review",
    "#000007": "--fail",
    "#000008": "--calibration",
}
INK, MUTED, RULE, GOOD, DEFECT, REVIEW, FAIL, CALIBRATION = _VARIABLES
_BINS: Final = 48

Sample = tuple[str, NDArray[np.float64], str]
"""A named sample of scores and its colour."""


def score_histograms(samples: Sequence[Sample], *, review: float, fail: float) -> str:
    """Draw each sample's histogram in a row of its own, over one axis of scores, with both thresholds across."""
    samples = [sample for sample in samples if len(sample[1])]
    with _style("scores"):
        figure = Figure(figsize=(6.4, 0.7 + (1.05 * len(samples) if len(samples) > 1 else 1.6)), layout="constrained")
        rows = figure.subplots(len(samples), sharex=True, squeeze=False)[:, 0]
        everything = np.concatenate([scores for _, scores, _ in samples])
        low, high = min(float(everything.min()), review), max(float(everything.max()), fail)
        margin = 0.03 * max(high - low, 1e-12)
        bins = np.linspace(low - margin, high + margin, _BINS + 1)
        for axes, (name, scores, colour) in zip(rows, samples, strict=True):
            axes.hist(scores, bins=bins, color=colour, alpha=0.85, edgecolor="none")
            axes.axvline(review, color=REVIEW, linestyle=(0, (4, 2)), linewidth=1.4)
            axes.axvline(fail, color=FAIL, linewidth=1.4)
            axes.set_title(f"{name} ({len(scores)})", loc="left", color=INK)
            axes.yaxis.get_major_locator().set_params(integer=True, nbins=3)
        top = rows[0]
        for value, text, colour, side in ((review, "review", REVIEW, "right"), (fail, "fail", FAIL, "left")):
            nudge = -4 if side == "right" else 4
            top.annotate(
                text,
                (value, 1),
                (nudge, -2),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha=side,
                va="top",
                color=colour,
            )
        rows[-1].set_xlabel("score")
        return _svg(figure, "Histograms of scores with the review and fail thresholds")


def roc_curves(curves: Sequence[tuple[str, Curve, str]]) -> str:
    """Draw named ROC curves, true-positive over false-positive rate."""
    with _style("roc"):
        figure, axes = _square()
        axes.plot([0, 1], [0, 1], color=RULE, linewidth=1)
        for name, curve, colour in curves:
            axes.plot(curve.x, curve.y, color=colour, label=name, linewidth=1.8, clip_on=False)
        axes.set(xlabel="false-positive rate", ylabel="true-positive rate", xlim=(0, 1), ylim=(0, 1))
        axes.legend(loc="lower right")
        return _svg(figure, "ROC curves")


def overlap_curve(name: str, curve: Curve, *, limit: float) -> str:
    """Draw the per-region overlap over the false-positive rate up to `limit`."""
    with _style("overlap"):
        figure, axes = _square()
        axes.fill_between(curve.x, curve.y, color=GOOD, alpha=0.15, linewidth=0)
        axes.plot(curve.x, curve.y, color=GOOD, label=name, linewidth=1.8, clip_on=False)
        axes.set(xlabel="false-positive rate (pixels)", ylabel="per-region overlap", xlim=(0, limit), ylim=(0, 1))
        axes.legend(loc="lower right")
        return _svg(figure, "Per-region overlap over the false-positive rate")


def _square() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(3.8, 3.3), layout="constrained")
    return figure, figure.subplots()


@contextmanager
def _style(salt: str) -> Iterator[None]:
    settings: dict[str, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "svg.id": f"plot-{salt}",
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.edgecolor": RULE,
        "axes.labelcolor": MUTED,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": RULE,
        "grid.linewidth": 0.6,
        "xtick.color": RULE,
        "ytick.color": RULE,
        "xtick.labelcolor": MUTED,
        "ytick.labelcolor": MUTED,
        "legend.frameon": False,
        "legend.labelcolor": INK,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
    }
    with mpl.rc_context(settings):  # type: ignore[arg-type]  # its keys are one closed list of literals
        yield


def _svg(figure: Figure, label: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    opening = text[: text.index(">") + 1]
    view_box = re.search(r'viewBox="[^"]*"', opening)
    size = view_box.group(0) if view_box else ""
    text = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {size} role="img" ' + (
        f'aria-label="{label}">' + text[len(opening) :]
    )
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text
