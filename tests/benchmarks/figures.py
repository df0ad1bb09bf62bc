"""What every benchmark returns, how contestants take turns, and how a run is shown and stored."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

# Runs of each contestant that warm caches and compilers up and don't count.
WARM_UP: Final = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One figure of one contestant.

    `ratio_to_baseline`: the median of the ratios pair by pair where contestants took turns, else of the medians; None
    where there is nothing to compare with. `peak_rss_bytes`: of the process that did the work. `share_of_limit`: of
    what `limit` names, 1.0 being all that the machine can give.
    """

    what: str
    contestant: str
    unit: str
    n: int
    median: float
    p99: float
    min: float
    max: float
    baseline: str | None = None
    ratio_to_baseline: float | None = None
    peak_rss_bytes: int | None = None
    share_of_limit: float | None = None
    limit: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What a person asked for; each benchmark reads what concerns it. `rounds`: None takes the benchmark's own."""

    full: bool = False
    rounds: int | None = None
    torch_python: Path | None = None
    backbones: tuple[str, ...] = ()
    pictures: Path | None = None


def row(what: str, contestant: str, unit: str, values: Sequence[float], **further: Any) -> Row:
    """Return the row of all `values` measured."""
    return Row(
        what=what,
        contestant=contestant,
        unit=unit,
        n=len(values),
        median=statistics.median(values),
        p99=float(np.percentile(values, 99)),
        min=min(values),
        max=max(values),
        **further,
    )


def milliseconds(call: Callable[[], object]) -> Callable[[], float]:
    """Return a contestant that tells how long `call` takes."""

    def run() -> float:
        begin_ns = time.monotonic_ns()
        call()
        return (time.monotonic_ns() - begin_ns) / 1e6

    return run


Name = TypeVar("Name", bound=str)


def in_turns(
    contestants: Mapping[Name, Callable[[], float]], rounds: int, warm_up: int = WARM_UP
) -> dict[Name, list[float]]:
    """Run A B A B ... and return each one's values: a machine that slows down for a while slows all of them."""
    values: dict[Name, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + warm_up):
        for name, run in contestants.items():
            value = run()
            if number >= warm_up:
                values[name].append(value)
    return values


def compared(
    what: str,
    unit: str,
    values: Mapping[Name, Sequence[float]],
    baseline: Name,
    further: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Row]:
    """Return a row for each contestant of `in_turns`, its ratio being the median of the ratios pair by pair."""
    rows = []
    for name, own in values.items():
        ratio = None
        if baseline in values:
            ratio = statistics.median(a / b for a, b in zip(own, values[baseline], strict=True))
        rows.append(
            row(what, name, unit, own, baseline=baseline, ratio_to_baseline=ratio, **(further or {}).get(name, {}))
        )
    return rows


def peak_rss_bytes(pid: int | str = "self") -> int:
    """Return the largest resident memory that a process has had."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"Process {pid} tells no peak memory.")


def as_json(machine: Mapping[str, Any], rows: Iterable[Row]) -> dict[str, Any]:
    return {"machine": dict(machine), "rows": [asdict(entry) for entry in rows]}
