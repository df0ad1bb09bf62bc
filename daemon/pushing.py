"""Sending frames at a camera's pace, with progress for the person who watches."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from daemon.client import FrameSender, PushCamera
from daemon.errors import NotRunningError
from daemon.messages import Verdict
from daemon.simulator import SimulatedFrame


class Pace:
    """Holds a loop to `rate` frames a second without drift; None means no limit. A late frame isn't made up for."""

    def __init__(self, rate: float | None) -> None:
        self._interval_ns = int(1e9 / rate) if rate else 0
        self._due_ns = time.monotonic_ns()

    def wait(self) -> None:
        """Wait until the next frame is due."""
        ahead_ns = self._due_ns - time.monotonic_ns()
        if ahead_ns > 0:
            time.sleep(ahead_ns / 1e9)
        self._due_ns = max(self._due_ns, time.monotonic_ns() - self._interval_ns) + self._interval_ns


def push_plain(
    frames: Iterable[SimulatedFrame],
    *,
    address: str,
    camera: str,
    prefix: str,
    recipe: str | None,
    total: int | None,
    pace: Pace,
    timeout_s: float,
) -> int:
    """Send frames to the push door and return how many. Raises NotRunningError when nobody takes them in time."""
    sent = 0
    with PushCamera(address, camera, timeout=timeout_s) as sender, _progress(camera, total) as advance:
        for frame in frames:
            pace.wait()
            sender.send(frame.payload, **_header(frame, prefix, recipe))
            sent += 1
            advance(f"{sent} sent")
    _say(f"{camera}: {sent} frame(s) sent to {address}.")
    return sent


def push_acked(
    frames: Iterable[SimulatedFrame],
    *,
    address: str,
    camera: str,
    prefix: str,
    recipe: str | None,
    total: int | None,
    pace: Pace,
    timeout_s: float,
) -> int:
    """Send frames to the acked door, wait for every verdict, and return how many were acknowledged.

    Raises NotRunningError when some are still unacknowledged `timeout_s` after the last was sent.
    """
    outcomes: Counter[str] = Counter()
    with _progress(camera, total) as advance:

        def acknowledged(_seq: int, verdict: Verdict | None) -> None:
            outcomes[verdict.verdict.value if verdict is not None else "unknown"] += 1

        with FrameSender(address, camera, on_ack=acknowledged) as sender:
            for frame in frames:
                pace.wait()
                sender.send(frame.payload, **_header(frame, prefix, recipe))
                advance(f"{sender.sent} sent, {sender.acknowledged} acknowledged")
            complete = sender.flush(timeout_s)
            sent, done, resent = sender.sent, sender.acknowledged, sender.resent
    told = ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items()))
    _say(f"{camera}: {sent} frame(s) sent to {address}, {done} acknowledged ({told}), {resent} resent.")
    if not complete:
        raise NotRunningError(f"{sent - done} frame(s) were not acknowledged: is a daemon running at {address}?")
    return done


def _header(frame: SimulatedFrame, prefix: str, recipe: str | None) -> dict[str, Any]:
    header = {**frame.header, "part": prefix + frame.part}
    if recipe is not None:
        header["recipe"] = recipe
    return header


@contextmanager
def _progress(camera: str, total: int | None) -> Iterator[Callable[[str], None]]:
    console = Console(stderr=True)
    columns = (TextColumn(camera), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(camera, total=total, note="")
        yield lambda note: bar.update(task, advance=1, note=note)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
