"""What the demo adds up to: figures for people and one picture at a glance."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from daemon.contact_sheet import contact_sheet
from daemon.defects import DEFECTS
from daemon.messages import Verdict
from daemon.outcomes import Outcome
from daemon.verdict_table import STYLES, latency_ms
from patchcore_engine.images import Geometry, encode_png, read
from patchcore_engine.metrics import auroc

AUROC_FLOOR: Final = 0.95
_TILE: Final = 192
_STAGES: Final = ("wait", "decode", "embed", "search", "score", "publish")


@dataclass(frozen=True)
class DemoAccount:
    """The parts that were pushed against the verdicts that came."""

    parts: Sequence[str]
    verdicts: Sequence[Verdict]
    daemon_status: int | None

    @cached_property
    def without_verdict(self) -> list[str]:
        judged = Counter(verdict.part for verdict in self.verdicts)
        return [part for part in self.parts if judged[part] == 0]

    @cached_property
    def superfluous(self) -> int:
        """Verdicts beyond one for each part."""
        judged = Counter(verdict.part for verdict in self.verdicts)
        return sum(count - 1 if part in set(self.parts) else count for part, count in judged.items())

    @cached_property
    def auroc(self) -> float | None:
        """Image AUROC over the parts that were inspected; None where it has no meaning."""
        scored = [(verdict.score, truth(verdict)) for verdict in self.verdicts if verdict.score is not None]
        good = np.array([score for score, kind in scored if kind == "good"])
        return auroc(good, np.array([score for score, kind in scored if kind != "good"]))

    @property
    def frames_per_second(self) -> float | None:
        times = [verdict.published_ns for verdict in self.verdicts if verdict.published_ns is not None]
        return (len(times) - 1) / ((max(times) - min(times)) / 1e9) if len(times) > 1 else None

    @property
    def complete(self) -> bool:
        """Whether each part got one verdict, good parts are told from defective ones, and the daemon ended well."""
        exact = not self.without_verdict and self.superfluous == 0
        return exact and self.daemon_status == 0 and self.auroc is not None and self.auroc >= AUROC_FLOOR


def truth(verdict: Verdict) -> str:
    """Return the truth of a part that is named by its path, <truth>/<file>."""
    return (verdict.part or "?").partition("/")[0]


def print_account(account: DemoAccount, console: Console) -> None:
    """Print verdicts by truth and the figures."""
    table = Table(title="Verdicts by truth", title_justify="left")
    table.add_column("truth")
    for outcome, style in STYLES.items():
        table.add_column(outcome.value.replace("_", " "), justify="right", style=style)
    counts = Counter((truth(verdict), verdict.verdict) for verdict in account.verdicts)
    for kind in ("good", *DEFECTS):
        if any(counts[kind, outcome] for outcome in Outcome):
            table.add_row(kind.replace("_", " "), *(str(counts[kind, outcome] or "·") for outcome in STYLES))
    console.print()
    console.print(table)
    latencies = [found for verdict in account.verdicts if (found := latency_ms(verdict)) is not None]
    exact = not account.without_verdict and account.superfluous == 0
    mark = "[green]one for each frame[/]" if exact else "[bold red]NOT ONE FOR EACH FRAME[/]"
    console.print(
        f"[dim]Verdicts[/]     {mark}: {len(account.parts)} frame(s) sent, {len(account.verdicts)} verdict(s), "
        f"{len(account.without_verdict)} without, {account.superfluous} too many"
    )
    if account.auroc is not None:
        console.print(f"[dim]Image AUROC[/]  {account.auroc:.4f} (at least {AUROC_FLOOR} is asked)")
    if latencies:
        p50, p99 = np.percentile(latencies, (50, 99))
        console.print(f"[dim]Latency[/]      p50 {p50:.0f} ms, p99 {p99:.0f} ms, from arrival to verdict")
    stages = [verdict.stages for verdict in account.verdicts if verdict.score is not None]
    if stages:
        medians = {name: np.median([getattr(stage, name) for stage in stages]) / 1000 for name in _STAGES}
        told = ", ".join(f"{name} {value:.1f}" for name, value in medians.items())
        console.print(f"[dim]Of it[/]        {told} ms (p50)")
    if account.frames_per_second is not None:
        console.print(f"[dim]Pace[/]         {account.frames_per_second:.1f} frames/s judged")


def write_overview(account: DemoAccount, pictures: Path, heatmaps: Path, path: Path, geometry: Geometry) -> Path | None:
    """Write one PNG: a part of each truth above its heat map. Returns None when no heat map came."""
    chosen: dict[str, tuple[Path, Path]] = {}
    for verdict in account.verdicts:
        found = next(iter(heatmaps.glob(f"{verdict.camera}-{verdict.offset:08d}-*.png")), None)
        if found is not None and verdict.part is not None:
            chosen.setdefault(truth(verdict), (pictures / verdict.part, found))
    columns = [chosen[kind] for kind in ("good", *DEFECTS) if kind in chosen]
    if not columns:
        return None
    above = [geometry.prepare(read(picture)).pixels for picture, _ in columns]
    below = [read(heatmap) for _, heatmap in columns]
    path.write_bytes(encode_png(contact_sheet(above + below, len(columns), _TILE)))
    return path
