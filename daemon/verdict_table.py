"""Verdicts for people: a live table on a terminal, plain lines elsewhere, and what they add up to."""

from collections import Counter, deque
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from daemon.file_names import printable
from daemon.messages import Verdict
from daemon.outcomes import Outcome

STYLES: Final = {
    Outcome.PASS: "green",
    Outcome.REVIEW: "yellow",
    Outcome.FAIL: "bold red",
    Outcome.NOT_INSPECTED: "magenta",
}
_BAR_CELLS: Final = 16
_WIDE: Final = 100
# The fail threshold stands at this share of the bar, so that defects have room to its right.
_FAIL_AT: Final = 0.5


class VerdictTotals:
    """Counts verdicts by outcome and reason, and keeps the last latencies."""

    def __init__(self, latencies: int = 10_000) -> None:
        self.outcomes: Counter[Outcome] = Counter()
        self.reasons: Counter[str] = Counter()
        self.latencies_ms: deque[float] = deque(maxlen=latencies)

    def add(self, verdict: Verdict) -> None:
        self.outcomes[verdict.verdict] += verdict.count
        if verdict.reason is not None:
            self.reasons[verdict.reason.value] += verdict.count
        latency = latency_ms(verdict)
        if latency is not None:
            self.latencies_ms.append(latency)

    @property
    def parts(self) -> int:
        return self.outcomes.total()

    def text(self) -> Text:
        line = Text(f"{self.parts} part(s)")
        for outcome, style in STYLES.items():
            line.append("  ")
            line.append(f"{self.outcomes[outcome]} {outcome.value}", style if self.outcomes[outcome] else "dim")
        if self.reasons:
            line.append("  (" + ", ".join(f"{count} {reason}" for reason, count in self.reasons.most_common()) + ")")
        return line


class VerdictTable:
    """Shows verdicts as they come: use it as a context manager, and `add` each verdict."""

    def __init__(self, console: Console, *, rows: int = 20, title: str | None = None) -> None:
        self._console = console
        self._rows: deque[Verdict] = deque(maxlen=max(rows, 1))
        self._title = title
        self.totals = VerdictTotals()
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=8, transient=False)

    def __enter__(self) -> "VerdictTable":
        if self._console.is_terminal:
            self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.__exit__(None, None, None)
        else:
            self._console.print(self.totals.text(), soft_wrap=True)

    def add(self, verdict: Verdict) -> None:
        self.totals.add(verdict)
        self._rows.append(verdict)
        if not self._console.is_terminal:
            self._console.print(verdict_line(verdict), soft_wrap=True, highlight=False, markup=False)

    def _render(self) -> RenderableType:
        wide = self._console.width >= _WIDE
        table = Table(title=self._title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("camera", no_wrap=True)
        table.add_column("seq", justify="right", no_wrap=True)
        table.add_column("part", no_wrap=True, overflow="ellipsis", max_width=28)
        table.add_column("verdict", no_wrap=True)
        table.add_column("score", justify="right", no_wrap=True)
        if wide:
            table.add_column(Text(" " * round(_FAIL_AT * _BAR_CELLS) + "│ fail"), no_wrap=True)
            table.add_column("p", justify="right", no_wrap=True)
        table.add_column("latency", justify="right", no_wrap=True)
        for verdict in list(self._rows):
            table.add_row(*_cells(verdict, wide=wide))
        return Group(table, self.totals.text())


def latency_ms(verdict: Verdict) -> float | None:
    """Milliseconds from the frame's arrival at the daemon to its verdict's publication; None for a part never seen."""
    if verdict.published_ns is None or verdict.score is None:
        return None
    return (verdict.published_ns - verdict.received_ns) / 1e6


def verdict_line(verdict: Verdict) -> str:
    """Return one plain line: camera, seq, part, verdict and why."""
    camera, part = printable(verdict.camera), printable(verdict.part or "-")
    parts = [f"{camera:<12} {verdict.seq:>6} {part:<28} {verdict.verdict.value:<13}"]
    if verdict.score is not None:
        parts.append(f"score {verdict.score:.3f} (review {_number(verdict.review_threshold)}")
        parts.append(f"fail {_number(verdict.fail_threshold)}) p {_number(verdict.p_value)}")
    if verdict.reason is not None:
        parts.append(verdict.reason.value + (f" x {verdict.count}" if verdict.count > 1 else ""))
    latency = latency_ms(verdict)
    if latency is not None:
        parts.append(f"{latency:.0f} ms")
    return " ".join(parts)


def _cells(verdict: Verdict, *, wide: bool) -> list[RenderableType]:
    style = STYLES[verdict.verdict]
    word = verdict.verdict.value if verdict.reason is None else f"{verdict.verdict.value}: {verdict.reason.value}"
    latency = latency_ms(verdict)
    cells: list[RenderableType] = [
        Text(printable(verdict.camera)),
        str(verdict.seq),
        Text(printable(verdict.part or "-")),
        Text(word, style),
        _number(verdict.score),
    ]
    if wide:
        cells += [_bar(verdict, style), _number(verdict.p_value)]
    return [*cells, f"{latency:.0f} ms" if latency is not None else "-"]


def _bar(verdict: Verdict, style: str) -> Text:
    """The score against the fail threshold, which stands in the middle."""
    if verdict.score is None or not verdict.fail_threshold:
        return Text("")
    share = min(verdict.score / verdict.fail_threshold * _FAIL_AT, 1.0)
    filled, mark = round(share * _BAR_CELLS), round(_FAIL_AT * _BAR_CELLS)
    cells = ["█" if cell < filled else "·" for cell in range(_BAR_CELLS)]
    if filled <= mark:
        cells[mark] = "│"
    return Text("".join(cells), style)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
