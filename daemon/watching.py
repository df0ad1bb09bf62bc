"""Following the daemon's verdicts for a person or a program."""

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Final

from rich.console import Console

from daemon.client import VerdictStream
from daemon.heatmap_files import HeatmapFiles
from daemon.messages import Verdict
from daemon.verdict_table import VerdictTable

_LAST_HEATMAP_S: Final = 2.0


def watch_verdicts(
    *,
    verdicts_address: str,
    replay_address: str,
    cameras: Sequence[str] | None,
    as_json: bool,
    save: Path | None,
    count: int | None,
    timeout_s: float | None,
    from_offset: int | None,
) -> bool:
    """Show verdicts until `count` have come, `timeout_s` passes without one, or Ctrl-C.

    Returns False when fewer than `count` came. Raises NotRunningError when no daemon answers.
    """
    seen = 0
    with ExitStack() as stack:
        files = HeatmapFiles(verdicts_address, save) if save is not None else None
        if files is not None:
            stack.callback(files.close)
        table = None if as_json else stack.enter_context(VerdictTable(Console()))
        stream = stack.enter_context(
            VerdictStream(
                verdicts_address, replay_address, from_offset=from_offset, cameras=cameras, timeout=timeout_s
            )
        )
        scored = 0
        try:
            for verdict in stream:
                seen += 1
                scored += verdict.score is not None
                if files is not None:
                    files.expect(verdict)
                if table is not None:
                    table.add(verdict)
                else:
                    print_json(verdict)
                if seen == count:
                    break
        except KeyboardInterrupt:
            pass
        if files is not None:
            files.wait_for(scored, _LAST_HEATMAP_S)
    return count is None or seen >= count


def print_json(verdict: Verdict) -> None:
    """Write one verdict as one line of JSON to stdout, at once."""
    sys.stdout.write(json.dumps(asdict(verdict), separators=(",", ":")) + "\n")
    sys.stdout.flush()
