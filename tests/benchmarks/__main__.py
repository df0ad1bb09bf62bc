"""The command line of the benchmarks; `patchline bench NAME` runs it with the source checkout as its folder."""

import argparse
import importlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tests.benchmarks.figures import Options, Row, as_json
from tests.benchmarks.machine import machine

BENCHMARKS: Final = ("backbone", "coreset", "search", "pipeline", "codecs", "keys", "ready", "scale", "journal")

# Of a table that goes to a file.
TABLE_WIDTH: Final = 190


def main() -> None:
    parser = argparse.ArgumentParser(prog="patchline bench", description="Measure this machine; nothing is asserted.")
    parser.add_argument("name", choices=(*BENCHMARKS, "all"), nargs="?", default="all")
    parser.add_argument("--json", type=Path, help="write machine and rows to this file")
    parser.add_argument("--full", action="store_true", help="the large sizes too: minutes to hours")
    parser.add_argument("--rounds", type=int, help="turns of each contestant")
    parser.add_argument("--torch-python", type=Path, help="a Python with torch, to compare with")
    parser.add_argument("--backbone", action="append", default=[], help="only this backbone; may be repeated")
    parser.add_argument("--pictures", type=Path, help="search, coreset: a folder of good pictures, for real patches")
    asked = parser.parse_args()
    options = Options(
        full=asked.full,
        rounds=asked.rounds,
        torch_python=asked.torch_python,
        backbones=tuple(asked.backbone),
        pictures=asked.pictures,
    )
    console = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH)
    facts = machine(options.torch_python)
    console.print(_machine_line(facts))
    rows: list[Row] = []
    for name in BENCHMARKS if asked.name == "all" else (asked.name,):
        found = list(importlib.import_module(f"tests.benchmarks.{name}").run(options, facts))
        console.print(_table(name, found))
        rows += found
        if asked.json is not None:
            asked.json.write_text(json.dumps(as_json(facts, rows), indent=2) + "\n", encoding="utf-8")


def _machine_line(facts: dict[str, Any]) -> str:
    bf16 = facts["bf16_matmul_flops"]
    return (
        f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_bytes'] / 2**30:.0f} GiB; "
        f"fp32 matmul {facts['fp32_matmul_flops'] / 1e9:.0f} GFLOP/s, "
        f"bf16 {f'{bf16 / 1e9:.0f} GFLOP/s' if bf16 else 'not measured'}, "
        f"copy {facts['copy_bytes_per_s'] / 2**30:.1f} GiB/s, load {facts['load_average_at_start']:.1f}"
    )


def _table(name: str, rows: Iterable[Row]) -> Table:
    table = Table(title=name, title_justify="left")
    for heading in ("what", "contestant", "unit"):
        table.add_column(heading)
    for heading in ("n", "median", "p99", "min", "max", "x baseline", "peak RSS", "of limit"):
        table.add_column(heading, justify="right")
    for entry in rows:
        table.add_row(
            entry.what,
            entry.contestant,
            entry.unit,
            str(entry.n),
            *(f"{value:.4g}" for value in (entry.median, entry.p99, entry.min, entry.max)),
            f"{entry.ratio_to_baseline:.3f}" if entry.ratio_to_baseline is not None else "",
            f"{entry.peak_rss_bytes / 2**20:.0f} MiB" if entry.peak_rss_bytes is not None else "",
            f"{entry.share_of_limit:.0%} {entry.limit}" if entry.share_of_limit is not None else "",
        )
    return table


if __name__ == "__main__":
    main()
