"""What a soak found: slopes with their uncertainty, latency by window, the account; as a table, JSON and a plot."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from tests.e2e.account import Account

# Of each run, the part in which caches fill and each camera's first streams are met.
WARM_UP_SHARE = 0.2
WINDOWS = 30
# More than this in an hour, surely, is growth. A queue, a cache or an allocator breathes; a leak goes on.
LIMITS = {"rss_mib": 8.0, "descriptors": 4.0, "threads": 1.0}
UNITS = {"rss_mib": "MiB", "descriptors": "", "threads": ""}


@dataclass(frozen=True, kw_only=True)
class Slope:
    """Growth of one resource after the warm-up; `per_hour` +- `uncertainty` (95 %)."""

    first: float
    last: float
    per_hour: float
    uncertainty: float
    limit_per_hour: float

    @property
    def grows(self) -> bool:
        return self.per_hour - self.uncertainty > self.limit_per_hour


@dataclass(frozen=True, kw_only=True)
class Window:
    """Latency from capture to a controller, of the parts that were heard in one window."""

    minutes: float
    parts: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, kw_only=True)
class SoakReport:
    """Rates in parts/s. `account` is that of the shift, `flood` that of the parts that measured the capacity before it.

    `unaccounted`: what is wrong with the account, in sentences; must be empty.
    """

    minutes: float
    capacity: float
    offered_rate: float
    judged_rate: float
    processor_ms_per_part: float
    slopes: dict[str, Slope]
    windows: list[Window]
    events: dict[str, int]
    account: Account
    flood: Account
    unaccounted: list[str]

    @property
    def held(self) -> bool:
        accounted = self.account.balanced and self.flood.balanced and not self.unaccounted
        return accounted and not any(slope.grows for slope in self.slopes.values())

    def drift(self) -> tuple[Window, Window]:
        """The first window after the warm-up, and the last whole one."""
        return self.windows[int(len(self.windows) * WARM_UP_SHARE)], self.windows[-1]


class Trace(NamedTuple):
    """Samples of the daemon's process at `seconds`, and when reloads were asked for; monotonic."""

    seconds: Sequence[float]
    series: dict[str, Sequence[float]]
    reloads: Sequence[float]


def slope_of(seconds: Sequence[float], values: Sequence[float], limit_per_hour: float) -> Slope:
    """Fit a line to the means of windows after the warm-up.

    The uncertainty allows for windows that resemble their neighbours: it is widened by their lag-1 correlation.
    """
    from scipy import stats

    times, samples = np.asarray(seconds) / 3600, np.asarray(values)
    settled = times >= times[0] + WARM_UP_SHARE * (times[-1] - times[0])
    times, samples = times[settled], samples[settled]
    count = min(WINDOWS, len(times))
    x = np.array([part.mean() for part in np.array_split(times, count)])
    y = np.array([part.mean() for part in np.array_split(samples, count)])
    line = stats.linregress(x, y)
    rest = y - (line.intercept + line.slope * x)
    spread = float(rest @ rest)
    half_width = 0.0
    # A constant has no spread, and rounding may make its error no number.
    if spread > 1e-9:
        alike = float(np.clip(rest[:-1] @ rest[1:] / spread, 0, 0.95))
        widening = float(np.sqrt((1 + alike) / (1 - alike)))
        half_width = float(stats.t.ppf(0.975, max(count - 2, 1))) * float(line.stderr) * widening
    return Slope(
        first=round(float(y[0]), 2),
        last=round(float(y[-1]), 2),
        per_hour=round(float(line.slope), 3),
        uncertainty=round(half_width, 3),
        limit_per_hour=limit_per_hour,
    )


def windows_of(heard_s: Sequence[float], latency_ms: Sequence[float], begin: float, end: float) -> list[Window]:
    """Cut the run from `begin` to `end`, monotonic seconds, into WINDOWS of equal length."""
    times, latency = np.asarray(heard_s), np.asarray(latency_ms)
    edges = np.linspace(begin, end, WINDOWS + 1)
    windows = []
    for low, high in pairwise(edges):
        inside: NDArray[np.float64] = latency[(times >= low) & (times < high)]
        p50, p99 = np.percentile(inside, (50, 99)) if len(inside) else (float("nan"), float("nan"))
        windows.append(
            Window(
                minutes=round((high - begin) / 60, 3),
                parts=len(inside),
                p50_ms=round(float(p50), 1),
                p99_ms=round(float(p99), 1),
            )
        )
    return windows


def as_json(report: SoakReport) -> str:
    return json.dumps({"held": report.held, **asdict(report)}, indent=2)


def show(report: SoakReport, console: Console) -> None:
    """Print the report as a table."""
    table = Table(title=f"Soak of {report.minutes:g} minutes", title_justify="left")
    table.add_column("")
    table.add_column("seen", justify="right")
    table.add_column("limit", justify="right")
    table.add_row("capacity, parts/s", f"{report.capacity:.1f}", "")
    share = f"{report.offered_rate:.1f} ({report.offered_rate / report.capacity:.0%})"
    table.add_row("offered, parts/s", share, "")
    table.add_row("judged, parts/s", f"{report.judged_rate:.1f}", "")
    table.add_row("processor time, ms/part", f"{report.processor_ms_per_part:.2f}", "", end_section=True)
    for name, slope in report.slopes.items():
        unit = f"{UNITS[name]}/h" if UNITS[name] else "1/h"
        colour = "red" if slope.grows else "green"
        table.add_row(
            f"{name.removesuffix('_mib')}, {slope.first:g} to {slope.last:g}",
            f"[{colour}]{slope.per_hour:+.2f} +- {slope.uncertainty:.2f} {unit}[/]",
            f"{slope.limit_per_hour:g} {unit}",
        )
    first, last = report.drift()
    table.add_row("latency p50, ms", f"{first.p50_ms:g} to {last.p50_ms:g}", "")
    table.add_row("latency p99, ms", f"{first.p99_ms:g} to {last.p99_ms:g}", "", end_section=True)
    for name, count in report.events.items():
        table.add_row(name, f"{count}", "")
    table.add_section()
    account = asdict(report.account)
    refused = account.pop("not_inspected")
    for name in ("sent", "judged"):
        table.add_row(name, f"{account.pop(name)}", "")
    for reason, count in sorted(refused.items()):
        table.add_row(f"not inspected: {reason}", f"{count}", "")
    for name, count in account.items():
        table.add_row(name.replace("_", " "), f"[{'red' if count else 'green'}]{count}[/]", "0")
    console.print(table)
    flood = report.flood
    console.print(
        f"To measure the capacity twice its parts were sent before, {flood.sent}: {flood.judged} judged, "
        f"{sum(flood.not_inspected.values())} not inspected, {flood.lost} lost"
    )
    for sentence in report.unaccounted:
        console.print(f"[red]{sentence}[/]")
    console.print("[green]held[/]" if report.held else "[red]NOT held[/]")


def plot(report: SoakReport, trace: Trace, path: Path) -> None:
    """Draw memory, descriptors and threads, and latency over the minutes of the run, as a PNG."""
    from matplotlib.figure import Figure

    begin = trace.seconds[0]
    minutes = (np.asarray(trace.seconds) - begin) / 60
    figure = Figure(figsize=(9, 8), layout="constrained")
    memory, counts, latency = figure.subplots(3, sharex=True)
    memory.plot(minutes, trace.series["rss_mib"], linewidth=0.8)
    rss = report.slopes["rss_mib"]
    memory.set_title(f"memory: {rss.per_hour:+.2f} +- {rss.uncertainty:.2f} MiB/h after the warm-up", loc="left")
    memory.set_ylabel("RSS, MiB")
    counts.plot(minutes, trace.series["descriptors"], linewidth=0.8, label="descriptors")
    counts.plot(minutes, trace.series["threads"], linewidth=0.8, label="threads")
    counts.set_title("descriptors (they follow the connections) and threads", loc="left")
    counts.set_ylim(bottom=0)
    counts.legend(loc="lower right")
    ends = [window.minutes for window in report.windows]
    latency.step(ends, [window.p50_ms for window in report.windows], label="p50")
    latency.step(ends, [window.p99_ms for window in report.windows], label="p99")
    latency.set_title("latency from capture to the controller, by window; dots: reloads", loc="left")
    latency.plot([(at - begin) / 60 for at in trace.reloads], [0.0] * len(trace.reloads), "k.", markersize=2)
    latency.set_ylabel("ms")
    latency.set_ylim(bottom=0)
    latency.legend(loc="upper right")
    latency.set_xlabel("minutes")
    for axes in (memory, counts, latency):
        axes.grid(visible=True, alpha=0.3)
        axes.axvspan(0, WARM_UP_SHARE * minutes[-1], color="0.9", zorder=0)
    figure.savefig(path, dpi=110)
