"""Following the daemon's verdicts for a person or a program."""

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Final

from rich.console import Console

from daemon.client import OffsetsLostError, VerdictStream
from daemon.heatmap_files import HeatmapFiles
from daemon.keys import ClientKeys
from daemon.messages import Verdict
from daemon.verdict_table import VerdictTable

_LAST_HEATMAP_S: Final = 2.0
_HINT_S: Final = 2.0


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
    keys: ClientKeys | None = None,
) -> bool:
    """Show verdicts until `count` have come, `timeout_s` passes without one, or Ctrl-C.

    Returns False when fewer than `count` came.
    """
    seen = scored = 0
    with ExitStack() as stack:
        files = HeatmapFiles(verdicts_address, save, keys) if save is not None else None
        if files is not None:
            stack.callback(files.close)
        stream = stack.enter_context(
            VerdictStream(
                verdicts_address,
                replay_address,
                from_offset=from_offset,
                cameras=cameras,
                on_lost=_tell_lost,
                keys=keys,
            )
        )
        table = None if as_json else stack.enter_context(VerdictTable(Console()))
        with contextlib.suppress(KeyboardInterrupt):
            for verdict in _verdicts(stream, timeout_s):
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
        if files is not None:
            files.wait_for(scored, _LAST_HEATMAP_S)
    return count is None or seen >= count


def _verdicts(stream: VerdictStream, timeout_s: float | None) -> Iterator[Verdict]:
    """Yield until `timeout_s` passes without a verdict; say so once where no daemon answers."""
    first_wait = _HINT_S if timeout_s is None else min(_HINT_S, timeout_s)
    verdict = stream.next(first_wait)
    if verdict is None and stream.position is None:
        sys.stderr.write("Waiting for a daemon ...\n")
    if verdict is None:
        verdict = stream.next(None if timeout_s is None else timeout_s - first_wait)
    while verdict is not None:
        yield verdict
        verdict = stream.next(timeout_s)


def _tell_lost(error: OffsetsLostError) -> None:
    sys.stderr.write(f"{error}\n")


def print_json(verdict: Verdict) -> None:
    """Write one verdict as one line of JSON to stdout, at once."""
    sys.stdout.write(json.dumps(asdict(verdict), separators=(",", ":")) + "\n")
    sys.stdout.flush()
