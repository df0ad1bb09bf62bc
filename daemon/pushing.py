"""Sending frames at a camera's pace, with progress for the person who watches."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from daemon.client import FrameSender, PushCamera
from daemon.errors import BufferFullError, NotRunningError
from daemon.keys import ClientKeys
from daemon.messages import Verdict
from daemon.simulator import SimulatedFrame


class Pace:
    """Holds a loop to `rate` frames a second; None means no limit. After a pause one frame at most is made up for."""

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
    keys: ClientKeys | None = None,
) -> int:
    """Send frames to the push door and return how many. Raises NotRunningError when nobody takes them in time."""
    sent = 0
    sender = PushCamera(address, camera, timeout_s=timeout_s, keys=keys)
    try:
        with _progress(camera, total) as advance:
            for frame in frames:
                pace.wait()
                sender.send(frame.payload, **_header(frame, prefix, recipe))
                sent += 1
                advance(f"{sent} sent")
    finally:
        sender.close(timeout_s)
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
    keys: ClientKeys | None = None,
) -> int:
    """Send frames to the acked door, wait for every verdict, and return how many were acknowledged.

    Raises NotRunningError when frames wait and none is acknowledged for `timeout_s`.
    """
    outcomes: Counter[str] = Counter()
    heard = threading.Event()

    def acknowledged(verdict: Verdict) -> None:
        outcomes[verdict.verdict.value] += 1
        heard.set()

    with _progress(camera, total) as advance:
        sender = FrameSender(address, camera, when_full="raise", on_ack=acknowledged, keys=keys)
        try:
            for frame in frames:
                pace.wait()
                _send(sender, frame.payload, _header(frame, prefix, recipe), heard, timeout_s)
                advance(f"{sender.sent} sent, {sender.acknowledged} acknowledged")
            _flush(sender, timeout_s)
        finally:
            sent, done, resent = sender.sent, sender.acknowledged, sender.resent
            sender.close()
            told = "".join(f", {number} {outcome}" for outcome, number in sorted(outcomes.items()))
            _say(f"{camera}: {sent} frame(s) sent to {address}, {done} acknowledged{told}; {resent} sent again.")
    return done


def _send(
    sender: FrameSender, payload: bytes, header: dict[str, Any], heard: threading.Event, timeout_s: float
) -> None:
    """Send one frame, waiting for room in the sender's buffer. Raises NotRunningError."""
    while True:
        heard.clear()
        try:
            sender.send(payload, **header)
        except BufferFullError:
            before = sender.acknowledged
            if not heard.wait(timeout_s) and sender.acknowledged == before:
                raise _nobody(sender) from None
        else:
            return


def _flush(sender: FrameSender, timeout_s: float) -> None:
    """Wait for the last acknowledgements, as long as they keep coming. Raises NotRunningError."""
    before = -1
    while not sender.flush(timeout_s):
        if sender.acknowledged == before:
            raise _nobody(sender)
        before = sender.acknowledged


def _nobody(sender: FrameSender) -> NotRunningError:
    if sender.refusal is not None:
        return NotRunningError(
            f"{sender.pending} frame(s) were not acknowledged at {sender.address}: the daemon refuses them with "
            f"{sender.refusal!r}. Mend what that names, or look at the daemon's log."
        )
    return NotRunningError(
        f"{sender.pending} frame(s) were not acknowledged at {sender.address}. Is the daemon running? If it asks "
        "for keys, is this camera's on its list?"
    )


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
