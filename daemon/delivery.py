"""The way out: settled verdicts are journalled, then published, then acknowledged; what happens when the disk fails."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, Literal, Protocol

import structlog

from daemon.config import PublishSettings
from daemon.errors import JournalError
from daemon.heatmaps import draw_overlay, encode_heatmap
from daemon.intake import Doors
from daemon.log_limit import LogLimit
from daemon.messages import FrameHeader, HeatmapHeader, Verdict
from daemon.outcomes import Reason
from daemon.reception import Reception
from daemon.refusal_log import RefusalLog
from daemon.scheduler import Lookahead, Ticket
from daemon.sequencer import Sequencer
from daemon.telemetry import Telemetry

log = structlog.get_logger()

RETRY_MS: Final = 250
LONGEST_RETRY_MS: Final = 5000
HOUSEKEEPING_S: Final = 1.0
PRUNE_EVERY_S: Final = 10.0
SLOW_COMMIT_S: Final = 1.0
FASTER_DISK: Final = "`iostat -x 1` shows the disk: move journal.dir to a faster one, or the archive away from it."


class VerdictJournal(Protocol):
    """What delivery asks of the journal; all but `close` raise JournalError."""

    def append_new(self, verdicts: Sequence[Verdict]) -> list[tuple[Verdict, bool]]:
        """Commit in one transaction those on parts that have none.

        Returns for each the verdict that the journal holds, and whether its part had it before.
        """
        ...

    def check(self) -> None:
        """Write and sync something small, to see whether the disk takes writes again."""
        ...

    def prune(self, now_ns: int) -> int: ...


class VerdictPublisher(Protocol):
    """What delivery asks of the publisher; every call on the sink thread."""

    @property
    def heatmaps_wanted(self) -> bool: ...

    def publish(self, verdict: Verdict, heatmap: tuple[HeatmapHeader, bytes] | None = None) -> None: ...

    def update(self) -> None: ...


class PartArchive(Protocol):
    """Keeps originals and overlays. `offer` never blocks."""

    def offer(
        self, verdict: Verdict, header: FrameHeader, payload: memoryview, overlay: Callable[[], bytes] | None
    ) -> None: ...


class Delivery:
    """The sink thread's work. `run` returns when the sequencer is closed and every verdict has left."""

    def __init__(
        self,
        *,
        settings: PublishSettings,
        sequencer: Sequencer,
        reception: Reception,
        journal: VerdictJournal,
        publisher: VerdictPublisher | None,
        archive: PartArchive | None,
        telemetry: Telemetry,
        on_state: Callable[[bool], None],
    ) -> None:
        self._heatmaps: Literal["png", "overlay", "float16"] | None = (
            settings.heatmaps if settings.heatmaps != "off" else None
        )
        self._sequencer = sequencer
        self._reception = reception
        self._journal = journal
        self._publisher = publisher
        self._archive = archive
        self._telemetry = telemetry
        self._on_state = on_state
        self._doors: Doors | None = None
        self._refusals = RefusalLog()
        self._slow = LogLimit()
        self._known = LogLimit()
        self._retry_ms = 0
        self._retry_at_ns = 0
        self._prune_at_ns = 0
        self.last_progress_ns = time.monotonic_ns()
        self.from_queue, self.from_engine = Lookahead(), Lookahead()
        telemetry.journal_available.set(1)

    def attach(self, doors: Doors) -> None:
        self._doors = doors

    @property
    def journal_available(self) -> bool:
        return self._retry_ms == 0

    def run(self) -> None:
        while (tickets := self._sequencer.take(self._timeout_s())) is not None:
            if tickets:
                self.deliver(tickets)
            elif self._publisher is not None:
                self._publisher.update()
            if not self.journal_available and time.monotonic_ns() >= self._retry_at_ns:
                self._try_again()
            if self.journal_available and time.monotonic_ns() >= self._prune_at_ns:
                self._prune()

    def deliver(self, tickets: Sequence[Ticket]) -> None:
        """Let verdicts leave; `tickets` are settled and in order."""
        begin_ns, published_ns = time.monotonic_ns(), time.time_ns()
        settled = [(ticket, ticket.verdict) for ticket in tickets if ticket.verdict is not None]
        verdicts = [_stamped(ticket, verdict, begin_ns, published_ns) for ticket, verdict in settled]
        if self.journal_available:
            try:
                journalled = self._put_on_disk(tickets, verdicts)
            except JournalError as error:
                pushed = self._fail(tickets, error)
            else:
                self._observe_commit((time.monotonic_ns() - begin_ns) / 1e9)
                self._send(tickets, journalled)
                pushed = []
        else:
            pushed = [ticket for ticket in tickets if not ticket.forgotten]
        self._send_unjournalled(pushed)
        self.last_progress_ns = time.monotonic_ns()
        self._reception.made_room()

    def _put_on_disk(self, tickets: Sequence[Ticket], verdicts: Sequence[Verdict]) -> list[tuple[Verdict, bool]]:
        """Return each verdict as it was journalled, and whether that was before; raises JournalError."""
        pairs = list(zip(tickets, verdicts, strict=True))
        journalled = iter(self._journal.append_new([verdict for ticket, verdict in pairs if not ticket.unchecked]))
        return [(verdict, False) if ticket.unchecked else next(journalled) for ticket, verdict in pairs]

    def _send(self, tickets: Sequence[Ticket], journalled: Sequence[tuple[Verdict, bool]]) -> None:
        """Let verdicts leave; those that were `journalled` before have left already and only answer their senders."""
        new = [(ticket, verdict) for ticket, (verdict, known) in zip(tickets, journalled, strict=True) if not known]
        if len(new) < len(tickets):
            self._tell_known(tickets, journalled)
        for ticket, verdict in new:
            self._publish(ticket, verdict)
        # Before they are let go: a camera that owes nothing may lose its place, and its labels with it.
        for ticket, verdict in new:
            self._count(ticket, verdict)
        self._reception.acknowledge(tickets, journalled)
        self._observe_way(tickets)
        if self._archive is not None:
            for ticket, verdict in new:
                if ticket.judgement is not None and ticket.header is not None and ticket.payload is not None:
                    self._archive.offer(verdict, ticket.header, ticket.payload, partial(draw_overlay, ticket.judgement))

    def _tell_known(self, tickets: Sequence[Ticket], journalled: Sequence[tuple[Verdict, bool]]) -> None:
        for ticket, (verdict, known) in zip(tickets, journalled, strict=True):
            if not known:
                continue
            self._telemetry.duplicates.labels(ticket.camera).inc()
            if (held_back := self._known.due()) is not None:
                log.warning(
                    "part_known",
                    camera=verdict.camera,
                    stream=verdict.stream,
                    seq=verdict.seq,
                    offset=verdict.offset,
                    held_back=held_back,
                    advice="The part was taken for a new one and keeps the verdict that the journal holds. Give each "
                    "run of a sender a stream of its own, and let it use one door.",
                )

    def _send_unjournalled(self, tickets: Sequence[Ticket]) -> None:
        published_ns = time.time_ns()
        for ticket in tickets:
            verdict = replace(ticket.refused(Reason.JOURNAL_UNAVAILABLE), published_ns=published_ns)
            if self._publisher is not None:
                self._publisher.publish(verdict)
            self._telemetry.count_verdict(verdict, ticket.camera)
            self._refusals.tell(verdict)
        self._reception.left_unjournalled(tickets)

    def _observe_commit(self, seconds: float) -> None:
        self._telemetry.journal_commit_seconds.observe(seconds)
        if seconds > SLOW_COMMIT_S and (held_back := self._slow.due()) is not None:
            log.warning("journal_slow", seconds=round(seconds, 3), held_back=held_back, advice=FASTER_DISK)

    def _observe_way(self, tickets: Sequence[Ticket]) -> None:
        judged = [ticket for ticket in tickets if ticket.judgement is not None]
        if judged:
            now_ns = time.monotonic_ns()
            self.from_queue.observe(now_ns - min(ticket.taken_monotonic_ns for ticket in judged))
            self.from_engine.observe(now_ns - min(ticket.engine_monotonic_ns for ticket in judged))

    def _publish(self, ticket: Ticket, verdict: Verdict) -> None:
        if self._publisher is None:
            return
        heatmap = None
        if self._heatmaps is not None and ticket.judgement is not None and self._publisher.heatmaps_wanted:
            heatmap = encode_heatmap(verdict, ticket.judgement, self._heatmaps)
        self._publisher.publish(verdict, heatmap)

    def _count(self, ticket: Ticket, verdict: Verdict) -> None:
        self._refusals.tell(verdict)
        now_ns = time.monotonic_ns()
        publish_us = (now_ns - ticket.settled_monotonic_ns) // 1000
        self._telemetry.count_verdict(
            replace(verdict, stages=replace(verdict.stages, publish=publish_us)), ticket.camera
        )
        if verdict.score is not None and verdict.recipe is not None:
            seconds = (now_ns - ticket.received_monotonic_ns) / 1e9
            self._telemetry.end_to_end_seconds.labels(verdict.recipe).observe(seconds)

    def _fail(self, tickets: Sequence[Ticket], error: JournalError) -> list[Ticket]:
        """Return the tickets whose frames can't be sent again."""
        log.error("journal_failed", error=str(error))
        self._telemetry.journal_failures.inc()
        self._telemetry.journal_available.set(0)
        self._retry_ms = RETRY_MS
        self._retry_at_ns = time.monotonic_ns() + RETRY_MS * 1_000_000
        pushed = self._reception.suspend(tickets)
        if self._doors is not None:
            self._doors.reset_all("journal_unavailable", RETRY_MS)
        self._on_state(False)
        return pushed

    def _try_again(self) -> None:
        try:
            self._journal.check()
        except JournalError as error:
            log.warning("journal_still_fails", error=str(error), retry_ms=self._retry_ms)
            self._telemetry.journal_failures.inc()
            self._retry_ms = min(2 * self._retry_ms, LONGEST_RETRY_MS)
            self._retry_at_ns = time.monotonic_ns() + self._retry_ms * 1_000_000
            return
        self._retry_ms = 0
        self._telemetry.journal_available.set(1)
        self._reception.resume()
        if self._doors is not None:
            self._doors.resume()
        self._on_state(True)
        log.info("journal_recovered")

    def _prune(self) -> None:
        """Take expired verdicts away, a bounded number at a time; sooner again while there are more."""
        try:
            pruned = self._journal.prune(time.time_ns())
        except JournalError as error:
            pruned = 0
            log.warning("journal_prune_failed", error=str(error))
        self._prune_at_ns = time.monotonic_ns() + int((HOUSEKEEPING_S if pruned else PRUNE_EVERY_S) * 1e9)

    def _timeout_s(self) -> float:
        if self.journal_available:
            return HOUSEKEEPING_S
        return max((self._retry_at_ns - time.monotonic_ns()) / 1e9, 0.001)


def _stamped(ticket: Ticket, verdict: Verdict, begin_ns: int, published_ns: int) -> Verdict:
    publish_us = (begin_ns - ticket.settled_monotonic_ns) // 1000
    return replace(verdict, published_ns=published_ns, stages=replace(verdict.stages, publish=publish_us))
