"""Feed the parsers with inputs that grow towards code not reached yet (libFuzzer, by atheris).

`python -m tests.fuzz --seconds 60` runs every target, each in a process of its own, and prints what was executed;
`--target NAME` runs one here. An input that breaks something is kept in fuzz-output: run it again with
`python -m tests.fuzz --target NAME --input FILE`, and make it a regression test.
"""

import argparse
import importlib
import pkgutil
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz import targets

TARGETS = [module.name for module in pkgutil.iter_modules(targets.__path__)]
PACKAGE = "tests.fuzz"
OUTPUT = Path("fuzz-output")
# Far above what a target needs, with the libraries that it imports.
MOST_MEMORY_MB = 1024
LONGEST_RUN_S = 20
LONGEST_INPUT = 8192


def run_here(name: str, seconds: int) -> None:
    """Fuzz one target; does not return."""
    import atheris

    with atheris.instrument_imports(include=["patchcore_engine", "daemon"]):
        target = importlib.import_module(f"{targets.__name__}.{name}")
    OUTPUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(target.seeds()):
            (Path(corpus) / f"seed{number:03}").write_bytes(seed)
        options = {
            "max_total_time": seconds,
            "rss_limit_mb": MOST_MEMORY_MB,
            "timeout": LONGEST_RUN_S,
            "max_len": LONGEST_INPUT,
            "print_final_stats": 1,
            "artifact_prefix": f"{OUTPUT}/{name}-",
        }
        atheris.Setup([name, *(f"-{key}={value}" for key, value in options.items()), corpus], target.one_input)
        atheris.Fuzz()


def run_all(seconds: int) -> int:
    """Run every target and return how many broke."""
    broken = 0
    for name in TARGETS:
        command = [sys.executable, "-m", PACKAGE, "--target", name, "--seconds", str(seconds)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        executed = re.search(r"number_of_executed_units: (\d+)", done.stderr)
        reached = re.findall(r"cov: (\d+)", done.stderr)
        whole = done.returncode == 0 and executed is not None
        broken += not whole
        print(
            f"{name:14} {int(executed[1]) if executed else 0:>10,} executions  "
            f"{reached[-1] if reached else '?':>6} edges  {'ok' if whole else 'BROKEN'}",
            flush=True,
        )
        if not whole:
            print(done.stderr[-3000:])
    return broken


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--target", choices=TARGETS)
    parser.add_argument("--input", type=Path, help="Run this input alone, without atheris.")
    asked = parser.parse_args()
    if asked.target is None:
        raise SystemExit(run_all(asked.seconds))
    if asked.input is not None:
        importlib.import_module(f"{targets.__name__}.{asked.target}").one_input(asked.input.read_bytes())
    else:
        run_here(asked.target, asked.seconds)


if __name__ == "__main__":
    main()
