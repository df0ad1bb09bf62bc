"""Takes frames in: gives each its place in its stream and in the queue, and remembers it until its verdict has left."""

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog

from daemon.config import IntakeSettings
from daemon.errors import JournalError, MessageError
from daemon.intake import Acknowledgement, Answer, Doors, Moment, ReplyToken
from daemon.log_limit import LogLimit
from daemon.messages import NO_CAMERA, FrameHeader, Verdict
from daemon.outcomes import Reason
from daemon.recipes import RecipeSet
from daemon.scheduler import Scheduler, Ticket
from daemon.sequencer import Sequencer
from daemon.streams import Placement, StreamLedger
from daemon.telemetry import Telemetry

log = structlog.get_logger()

# Parts that may wait for a verdict or for the journal before the doors close; far above any queue's needs, it bounds
# memory when the engine or the disk hangs.
MAX_UNDER_WAY: Final = 20_000


class VerdictLookup(Protocol):
    """What reception asks of the journal."""

    def find(self, camera: str, stream: int, seq: int) -> Verdict | None:
        """Raises JournalError."""
        ...


class Reception:
    """Fulfils `Intake` for the ingest thread; the sink thread tells it which verdicts have left. Thread-safe."""

    def __init__(
        self,
        *,
        settings: IntakeSettings,
        ledger: StreamLedger,
        scheduler: Scheduler,
        sequencer: Sequencer,
        lookup: VerdictLookup,
        recipes: Callable[[], RecipeSet],
        telemetry: Telemetry,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._scheduler = scheduler
        self._sequencer = sequencer
        self._lookup = lookup
        self._recipes = recipes
        self._telemetry = telemetry
        self._doors: Doors | None = None
        self._gate = threading.Lock()
        self._under_way: dict[tuple[str, int, int], Ticket] = {}
        self._suspended = False
        self._held_back = False
        # Frames that belong to no known camera are counted in a stream of this process.
        self._nameless_stream = secrets.randbits(64)
        self._nameless_seq = 0
        self._shed_log = LogLimit()
        self._cameras = frozenset(ledger.cameras)
        for camera in self._cameras:
            telemetry.add_camera(camera)

    def attach(self, doors: Doors) -> None:
        self._doors = doors

    # Called on the ingest thread

    def receive(
        self, header: FrameHeader, payload: memoryview, reply: ReplyToken | None, received: Moment | None = None
    ) -> Answer:
        return self._take_in(header, payload, None, reply, received)

    def reject(
        self,
        header: FrameHeader | None,
        error: MessageError,
        reply: ReplyToken | None,
        received: Moment | None = None,
    ) -> Answer:
        return self._take_in(header, None, error, reply, received)

    @property
    def accepting(self) -> bool:
        if self._has_room():
            return True
        self._held_back = True
        # Room made between the look and the note would wake nobody.
        return self._has_room()

    @property
    def window(self) -> int:
        if self._suspended or not self._has_room():
            self._held_back = True
            return 0 if self._suspended or not self._has_room() else self._settings.window
        return self._settings.window

    # Called on other threads

    @property
    def under_way(self) -> int:
        """Parts taken in whose verdicts have not left."""
        return len(self._under_way)

    @property
    def cameras(self) -> frozenset[str]:
        """The cameras that have a place, at most max_cameras."""
        return self._cameras

    def oldest(self) -> Ticket | None:
        """Return the part that has been under way for longest."""
        with self._gate:
            return next(iter(self._under_way.values()), None)

    def made_room(self) -> None:
        """Open the doors again if they were held back and there is room now."""
        if self._held_back and self._has_room():
            self._held_back = False
            if self._doors is not None:
                self._doors.wake()

    def acknowledge(self, tickets: Sequence[Ticket], journalled: Sequence[tuple[Verdict, bool]]) -> None:
        """Let go of parts whose verdicts are on disk and published, and hand their acknowledgements to the doors.

        `journalled`: each part's verdict, and whether it is one of an earlier time. Both at one moment: a part that is
        sent again meanwhile would be answered before those that it came after.
        """
        due: list[Acknowledgement] = []
        with self._gate:
            for ticket, (verdict, known) in zip(tickets, journalled, strict=True):
                self._under_way.pop(ticket.identity, None)
                if ticket.camera != NO_CAMERA:
                    self._ledger.settled(ticket.camera, ticket.stream)
                if ticket.reply is not None:
                    due.append((ticket.reply, verdict, known))
            if due and self._doors is not None:
                self._doors.acknowledge(due)

    def left_unjournalled(self, tickets: Sequence[Ticket]) -> None:
        """Note verdicts that left without the journal."""
        with self._gate:
            for ticket in tickets:
                self._under_way.pop(ticket.identity, None)
                if ticket.camera != NO_CAMERA:
                    self._ledger.settled(ticket.camera, ticket.stream)

    def suspend(self, in_hand: Sequence[Ticket]) -> list[Ticket]:
        """The journal failed: forget all acked parts, those `in_hand` too; their senders keep and resend them.

        Returns the tickets in hand that were pushed, which can't be sent again.
        """
        with self._gate:
            self._suspended = True
            forgotten = [ticket for ticket in in_hand if ticket.door == "acked"] + self._sequencer.forget_acked()
            for ticket in forgotten:
                ticket.forgotten = True
                self._under_way.pop(ticket.identity, None)
                self._ledger.roll_back(ticket.camera, ticket.stream)
        self._scheduler.discard_forgotten()
        return [ticket for ticket in in_hand if ticket.door != "acked"]

    def resume(self) -> None:
        """The journal is back."""
        with self._gate:
            self._suspended = False

    def _has_room(self) -> bool:
        return len(self._under_way) < MAX_UNDER_WAY and not self._scheduler.full

    def _take_in(
        self,
        header: FrameHeader | None,
        payload: memoryview | None,
        error: MessageError | None,
        reply: ReplyToken | None,
        received: Moment | None,
    ) -> Answer:
        received_ns, monotonic_ns = received or (time.time_ns(), time.monotonic_ns())
        with self._gate:
            if reply is not None and (
                self._suspended or self._scheduler.overfull or len(self._under_way) >= MAX_UNDER_WAY
            ):
                return Answer.REFUSED
            placement = None
            if header is not None:
                try:
                    placement = self._locate(header, reply, monotonic_ns)
                except MessageError as refusal:
                    error = refusal
                except JournalError as failure:
                    if reply is not None:
                        return Answer.REFUSED
                    error = MessageError(f"Camera {header.camera}: {failure}", Reason.JOURNAL_UNAVAILABLE)
                    placement = self._place_unchecked(header)
            self._count_frame(self._label(header.camera) if header is not None else NO_CAMERA, payload, reply)
            if header is not None and placement is not None and placement.duplicate:
                return self._answer_duplicate(header, placement, reply)
            if header is not None and placement is not None:
                tickets = self._tickets(header, placement, received_ns, monotonic_ns, reply)
            else:
                tickets = [self._nameless_ticket(header, received_ns, monotonic_ns, reply)]
            for ticket in tickets:
                self._under_way[ticket.identity] = ticket
                self._sequencer.register(ticket)
        *missing, ticket = tickets
        for gap in missing:
            self._sequencer.settle(gap, gap.refused(Reason.MISSING))
        if error is not None:
            self._sequencer.settle(ticket, ticket.refused(error.reason, str(error)))
        elif self._suspended:
            self._sequencer.settle(ticket, ticket.refused(Reason.JOURNAL_UNAVAILABLE))
        else:
            self._queue(ticket, payload)
        return Answer.TAKEN

    def _queue(self, ticket: Ticket, payload: memoryview | None) -> None:
        requested = ticket.header.recipe if ticket.header is not None else None
        recipe = self._recipes().resolve(ticket.camera, requested)
        if recipe is None:
            detail = f"There is no recipe {requested}." if requested else "No recipe lists this camera."
            self._sequencer.settle(ticket, ticket.refused(Reason.UNKNOWN_RECIPE, detail))
            return
        ticket.recipe, ticket.payload = recipe.name, payload
        if recipe.max_age_ms is not None:
            ticket.deadline_ns = ticket.received_monotonic_ns + recipe.max_age_ms * 1_000_000
        for shed in self._scheduler.offer(ticket):
            shed.payload = None
            self._sequencer.settle(shed, shed.refused(Reason.SHED))
            if (held_back := self._shed_log.due()) is not None:
                log.warning(
                    "queue_full",
                    camera=shed.camera,
                    held_back=held_back,
                    advice="The parts of this camera that waited longest get the verdict `shed`. The engine is slower "
                    "than what comes, or the camera sends more than its share: compare its frames with the others'.",
                )

    def _locate(self, header: FrameHeader, reply: ReplyToken | None, now_ns: int) -> Placement:
        """Raises MessageError where the camera isn't taken, and JournalError."""
        if self._admit(header.camera, now_ns):
            return self._place(header)
        # Its camera may have had a place when it came first.
        if reply is not None and self._lookup.find(header.camera, reply.stream, header.seq) is not None:
            return Placement(stream=reply.stream, duplicate=True)
        raise MessageError(
            f"Camera {header.camera} is beyond intake.max_cameras = {self._settings.max_cameras}.",
            Reason.TOO_MANY_CAMERAS,
        )

    def _admit(self, camera: str, now_ns: int) -> bool:
        if not self._ledger.admit(camera, now_ns=now_ns, listed=self._recipes().lists):
            return False
        if camera not in self._cameras:
            known = frozenset(self._ledger.cameras)
            for gone in self._cameras - known:
                self._telemetry.remove_camera(gone)
                log.info("camera_let_go", camera=gone, in_favour_of=camera)
            self._cameras = known
            self._telemetry.add_camera(camera)
        return True

    def _label(self, camera: str) -> str:
        return camera if camera in self._cameras else NO_CAMERA

    def _place(self, header: FrameHeader) -> Placement:
        placement = self._ledger.place(header.camera, header.stream, header.seq)
        if placement.started:
            self._telemetry.streams.labels(header.camera).inc()
        if placement.conflict:
            self._telemetry.conflicts.labels(header.camera).inc()
        if placement.missing:
            self._telemetry.gaps.labels(header.camera).inc()
        return placement

    def _place_unchecked(self, header: FrameHeader) -> Placement | None:
        """Place a pushed frame by what it states alone; None where not even its camera is known.

        The ledger takes no note of it: once the journal can be asked, what is missing in the stream can still be told.
        """
        if header.stream is None or header.camera not in self._cameras:
            return None
        if (header.camera, header.stream, header.seq) in self._under_way:
            return Placement(stream=header.stream, duplicate=True)
        self._ledger.add_under_way(header.camera, header.stream, 1)
        return Placement(stream=header.stream, unchecked=True)

    def _answer_duplicate(self, header: FrameHeader, placement: Placement, reply: ReplyToken | None) -> Answer:
        self._telemetry.duplicates.labels(self._label(header.camera)).inc()
        if reply is None:
            return Answer.TAKEN
        ticket = self._under_way.get((header.camera, placement.stream, header.seq))
        if ticket is not None:
            ticket.reply = reply
            return Answer.TAKEN
        try:
            verdict = self._lookup.find(header.camera, placement.stream, header.seq)
        except JournalError:
            return Answer.REFUSED
        if self._doors is not None:
            self._doors.acknowledge([(reply, verdict, True)])
        return Answer.TAKEN

    def _tickets(
        self,
        header: FrameHeader,
        placement: Placement,
        received_ns: int,
        monotonic_ns: int,
        reply: ReplyToken | None,
    ) -> list[Ticket]:
        """Return a ticket for each part missing before the frame, or one for all of a long gap, and the frame's."""

        def ticket(seq: int, count: int = 1) -> Ticket:
            return Ticket(
                camera=header.camera,
                stream=placement.stream,
                seq=seq,
                count=count,
                captured_ns=header.captured_ns,
                received_ns=received_ns,
                received_monotonic_ns=monotonic_ns,
                door="push" if reply is None else "acked",
                unchecked=placement.unchecked,
            )

        first = header.seq - placement.missing
        if placement.missing > self._settings.max_gap:
            missing = [ticket(first, placement.missing)]
        else:
            missing = [ticket(seq) for seq in range(first, header.seq)]
        self._ledger.add_under_way(header.camera, placement.stream, len(missing))
        frame = ticket(header.seq)
        frame.header, frame.reply = header, reply
        return [*missing, frame]

    def _nameless_ticket(
        self, header: FrameHeader | None, received_ns: int, monotonic_ns: int, reply: ReplyToken | None
    ) -> Ticket:
        self._nameless_seq += 1
        return Ticket(
            camera=NO_CAMERA,
            stream=self._nameless_stream,
            seq=self._nameless_seq,
            captured_ns=header.captured_ns if header is not None else received_ns,
            received_ns=received_ns,
            received_monotonic_ns=monotonic_ns,
            door="push" if reply is None else "acked",
            header=header,
            reply=reply,
        )

    def _count_frame(self, camera: str, payload: memoryview | None, reply: ReplyToken | None) -> None:
        self._telemetry.frames.labels(camera, "push" if reply is None else "acked").inc()
        if payload is not None:
            self._telemetry.frame_bytes.labels(camera).inc(payload.nbytes)
        if camera != NO_CAMERA:
            self._telemetry.last_frame.labels(camera).set_to_current_time()
