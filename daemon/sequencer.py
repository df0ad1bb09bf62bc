"""Lets the verdicts of one camera leave in the order its parts came, however their frames overtook one another."""

import threading
import time
from collections import deque

from daemon.messages import Verdict
from daemon.scheduler import Ticket


class Sequencer:
    """A line of tickets per camera; a settled ticket leaves when all before it in its line have. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._lines: dict[str, deque[Ticket]] = {}
        self._released: list[Ticket] = []
        self._released_bytes = 0
        self._outstanding = 0
        self._closed = False

    def register(self, ticket: Ticket) -> None:
        """Give `ticket` its place; called in the order of arrival."""
        with self._changed:
            self._lines.setdefault(ticket.camera, deque()).append(ticket)
            self._outstanding += 1

    def settle(self, ticket: Ticket, verdict: Verdict) -> bool:
        """Note the verdict of a registered ticket; False when it already had one, or was forgotten."""
        with self._changed:
            if ticket.verdict is not None or ticket.forgotten:
                return False
            ticket.verdict = verdict
            ticket.settled_monotonic_ns = time.monotonic_ns()
            self._release(ticket.camera)
        return True

    def take(self, timeout_s: float | None = None) -> list[Ticket] | None:
        """Wait for tickets that may leave and take all of them, in order; None once closed and empty.

        Returns an empty list when `timeout_s` is over.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._released or (self._closed and not self._outstanding), timeout_s)
            released, self._released = self._released, []
            self._released_bytes = 0
            self._outstanding -= len(released)
            self._changed.notify_all()
            return None if not released and self._closed and not self._outstanding else released

    def forget_acked(self) -> list[Ticket]:
        """Mark as forgotten and return every ticket of the acked door; others behind them move up."""
        with self._changed:
            forgotten = [t for line in self._lines.values() for t in line if t.door == "acked"]
            forgotten += [ticket for ticket in self._released if ticket.door == "acked"]
            for ticket in forgotten:
                ticket.forgotten = True
            self._released = [ticket for ticket in self._released if not ticket.forgotten]
            self._released_bytes = sum(ticket.held_bytes for ticket in self._released)
            self._outstanding -= len(forgotten)
            for camera in list(self._lines):
                self._lines[camera] = deque(ticket for ticket in self._lines[camera] if not ticket.forgotten)
                self._release(camera)
            self._changed.notify_all()
        return forgotten

    def unsettled(self) -> list[Ticket]:
        """Return the tickets that still owe a verdict."""
        with self._changed:
            return [ticket for line in self._lines.values() for ticket in line if ticket.verdict is None]

    def wait_until_settled(self, timeout_s: float) -> bool:
        """Wait until no ticket owes a verdict; False when `timeout_s` was too short."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._lines, timeout_s)

    def wait_for_room(self, limit_bytes: int) -> None:
        """Wait while tickets that hold `limit_bytes` or more could be taken and aren't, unless closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._released_bytes < limit_bytes or self._closed)

    def close(self) -> None:
        """Let `take` return None once every ticket has left. No ticket is registered any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def outstanding(self) -> int:
        """Tickets that have not been taken."""
        return self._outstanding

    @property
    def released(self) -> int:
        """Tickets that could be taken now."""
        return len(self._released)

    def _release(self, camera: str) -> None:
        line = self._lines[camera]
        while line and line[0].verdict is not None:
            ticket = line.popleft()
            self._released.append(ticket)
            self._released_bytes += ticket.held_bytes
        if not line:
            del self._lines[camera]
        self._changed.notify_all()
