"""A shift at nine tenths of the measured capacity, with everything that happens in one: python -m tests.e2e.soak

    --minutes N     30 by default; --hours N instead for a night shift
    --load SHARE    of the measured capacity, 0.9 by default
    --output DIR    where soak.json and soak.png go, soak-output by default
    --json          print the report as JSON instead of as a table

The sleeping backbone sets the capacity, so that the load is on the daemon and not on the processor. Mixed in: reloads
with alternating banks, cameras and subscribers that reconnect, cables that are cut, a subscriber that never reads, and
frames that can't be inspected. Ends with status 0 only if every part is accounted for and no resource grows; Ctrl-C
ends the shift early, with its report.
"""

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from tests.e2e.soak_report import as_json, plot, show
from tests.e2e.soak_shift import Pace, Soak


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--hours", type=float)
    parser.add_argument("--load", type=float, default=0.9)
    parser.add_argument("--output", type=Path, default=Path("soak-output"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    minutes = options.minutes if options.hours is None else 60 * options.hours
    with tempfile.TemporaryDirectory(prefix="patchline-soak-") as folder:
        soak = Soak(Path(folder), load=options.load, pace=Pace())
        signal.signal(signal.SIGINT, lambda _number, _frame: soak.end_early())
        report = soak.run(60 * minutes)
    text = as_json(report)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "soak.json").write_text(text + "\n", encoding="utf-8")
    plot(report, soak.trace, options.output / "soak.png")
    if options.json:
        print(text)
    else:
        show(report, Console())
    return 0 if report.held else 1


if __name__ == "__main__":
    sys.exit(main())
