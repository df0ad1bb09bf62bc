"""The stages and their threads: queue -> decode -> engine -> in order -> journal and out. Only this file knows all."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final

from daemon.config import MIB, Settings
from daemon.delivery import Delivery, PartArchive, VerdictJournal, VerdictPublisher
from daemon.engine_health import EngineHealth
from daemon.inspection import (
    DecodedFrame,
    Judgement,
    Refusal,
    decode_frame,
    judge,
    judged_verdict,
    run_guarded,
)
from daemon.intake import Doors, Intake
from daemon.outcomes import Reason
from daemon.prefetch import Job, Prefetch
from daemon.reception import Reception, VerdictLookup
from daemon.recipes import RecipeSet
from daemon.scheduler import QueuePolicy, Scheduler, Ticket
from daemon.self_watch import Hangs
from daemon.sequencer import Sequencer
from daemon.streams import StreamLedger
from daemon.telemetry import Telemetry

DELIVERY_S: Final = 10.0
# Pictures and heat maps of judged parts that may wait for a slow journal before the engine waits too; with an archive
# their frames count, and archive.queue_bytes more may wait.
JUDGED_BYTES: Final = 64 * MIB
NO_RECIPES: Final = RecipeSet({}, {})


class Pipeline:
    """Owns the decode, engine and sink threads. `intake` is for the ingest thread."""

    def __init__(
        self,
        settings: Settings,
        *,
        telemetry: Telemetry,
        ledger: StreamLedger,
        lookup: VerdictLookup,
        journal: VerdictJournal,
        publisher: VerdictPublisher | None,
        archive: PartArchive | None = None,
        on_journal: Callable[[bool], None] = lambda _available: None,
        judged_bytes: int = JUDGED_BYTES,
    ) -> None:
        self._settings = settings
        self._telemetry = telemetry
        self._recipes = NO_RECIPES
        self._keeps_payloads = archive is not None
        self._judged_limit = judged_bytes + (settings.archive.queue_bytes if archive is not None else 0)
        policy = QueuePolicy(
            frames=settings.queue.frames,
            frames_per_camera=settings.queue.frames_per_camera,
            bytes=settings.queue.bytes,
            shed=settings.queue.shed,
            max_delay_ms=settings.queue.max_delay_ms,
        )
        self._scheduler = Scheduler(policy, self._extractor_key)
        self._sequencer = Sequencer()
        self._reception = Reception(
            settings=settings.intake,
            ledger=ledger,
            scheduler=self._scheduler,
            sequencer=self._sequencer,
            lookup=lookup,
            recipes=lambda: self._recipes,
            telemetry=telemetry,
        )
        self._delivery = Delivery(
            settings=settings.publish,
            sequencer=self._sequencer,
            reception=self._reception,
            journal=journal,
            publisher=publisher,
            archive=archive,
            telemetry=telemetry,
            on_state=on_journal,
        )
        self._ahead_of_queue, self._ahead_of_engine = self._delivery.from_queue, self._delivery.from_engine
        self._prefetch = Prefetch(max(settings.engine.batch_sizes))
        self._decoding = threading.Lock()
        self.engine_health = EngineHealth(telemetry, max(settings.engine.batch_sizes))
        self._decode_progress_ns = self._engine_progress_ns = time.monotonic_ns()
        self._engine_idle = True
        self._job_since_ns: int | None = None
        self._threads = [
            threading.Thread(target=self._run_decode, name="decode", daemon=True),
            threading.Thread(target=self._run_engine, name="engine", daemon=True),
            threading.Thread(target=self._delivery.run, name="sink", daemon=True),
        ]
        self._watch_gauges()

    @property
    def intake(self) -> Intake:
        return self._reception

    @property
    def recipes(self) -> RecipeSet:
        """The recipes that serve now."""
        return self._recipes

    @property
    def journal_available(self) -> bool:
        return self._delivery.journal_available

    @property
    def alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads)

    def attach(self, doors: Doors) -> None:
        """Say where acknowledgements go, before any frame comes."""
        self._reception.attach(doors)
        self._delivery.attach(doors)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def run_on_engine(self, call: Callable[[], None]) -> "Future[Exception | None]":
        """Let the engine thread do `call` between two batches; the future tells what it raised."""
        job = Job(call, Future())
        self._prefetch.add_job(job)
        return job.done

    def run_after_batch(self, call: Callable[[], None]) -> "Future[Exception | None]":
        """As `run_on_engine`, but not before all parts were judged that have been taken from the queue by now."""
        job = Job(call, Future())
        with self._decoding:
            self._prefetch.add_job(job, after_batch=True)
        return job.done

    def serve(self, recipes: RecipeSet) -> None:
        """Swap in another set of recipes; a batch that is decoded already keeps the set that it was decoded for."""
        for name in set(self._recipes.recipes) - set(recipes.recipes):
            self._telemetry.remove_recipe(name)
        for name, recipe in recipes.recipes.items():
            self._telemetry.set_recipe(name, recipe.bank.version, recipe.review, recipe.fail)
        self._recipes = recipes

    def stuck(self) -> Hangs | None:
        """Whether work waits and none has been finished for stuck_s (load_s while the engine thread loads).

        Returns what hangs.
        """
        oldest = self._reception.oldest()
        if oldest is None:
            return None
        progress_ns, limit_s = self._delivery.last_progress_ns, self._settings.service.stuck_s
        hangs: Hangs = "journal"
        if oldest.verdict is None:
            hangs = "engine"
            progress_ns = self._engine_progress_ns
            if self._engine_idle:
                # It waits for decoding. While it works, frames that are refused on the way don't hide that it hangs.
                progress_ns = max(progress_ns, self._decode_progress_ns)
            job_since_ns = self._job_since_ns
            if job_since_ns is not None:
                progress_ns, limit_s = job_since_ns, self._settings.service.load_s
        waited_ns = time.monotonic_ns() - max(progress_ns, oldest.received_monotonic_ns)
        return hangs if waited_ns > limit_s * 1e9 else None

    def drain(self, limit_s: float) -> int:
        """Finish what waits within `limit_s`; give the rest its verdict `shutting_down` and return how many that were.

        No frame may come in any more.
        """
        self._scheduler.close()
        cut_off = 0
        if not self._sequencer.wait_until_settled(limit_s):
            self._scheduler.take_all()
            for ticket in self._sequencer.unsettled():
                cut_off += self._sequencer.settle(ticket, ticket.refused(Reason.SHUTTING_DOWN))
        self._sequencer.close()
        self._threads[2].join(DELIVERY_S)
        return cut_off

    def engine_idle(self, limit_s: float = 2.0) -> bool:
        """After `drain`: whether the engine thread has come to its end, waited for at most `limit_s`."""
        self._threads[1].join(limit_s)
        return not self._threads[1].is_alive()

    def _run_decode(self) -> None:
        while taken := self._scheduler.take(self._prefetch.wait_for_room(), ahead_ns=self._ahead_of_queue.ns):
            self._reception.made_room()
            self._settle_late(taken.late)
            with self._decoding:
                self._prefetch.add(self._decode(taken.batch))
        self._prefetch.close()

    def _decode(self, tickets: Sequence[Ticket]) -> list[DecodedFrame]:
        recipes, taken_ns = self._recipes, time.monotonic_ns()
        frames = []
        for ticket in tickets:
            if ticket.forgotten:
                continue
            recipe = recipes.recipes.get(ticket.recipe or "")
            if recipe is None:
                frame: DecodedFrame | Refusal = Refusal(
                    Reason.UNKNOWN_RECIPE, f"Recipe {ticket.recipe} was taken away by a reload."
                )
            else:
                frame = decode_frame(ticket, recipe, taken_ns)
            self._decode_progress_ns = time.monotonic_ns()
            if isinstance(frame, Refusal):
                self._refuse(ticket, frame)
                continue
            if not self._keeps_payloads:
                ticket.payload = None
            frames.append(frame)
        return frames

    def _run_engine(self) -> None:
        while (work := self._prefetch.take()) is not None:
            self._engine_progress_ns = time.monotonic_ns()
            self._engine_idle = False
            if isinstance(work, Job):
                self._job_since_ns = self._engine_progress_ns
                failure = run_guarded(work.call)
                self._job_since_ns = None
                self._engine_progress_ns = time.monotonic_ns()
                work.done.set_result(failure)
            else:
                self._judge(work)
            # It would keep what a reload replaced while the engine waits for the next.
            del work
            self._engine_idle = True

    def _judge(self, frames: list[DecodedFrame]) -> None:
        self._sequencer.wait_for_room(self._judged_limit)
        begin_ns = time.monotonic_ns()
        late = [frame for frame in frames if frame.ticket.is_late(begin_ns, self._ahead_of_engine.ns)]
        self._settle_late([frame.ticket for frame in late])
        waiting = [f for f in frames if f not in late and not f.ticket.forgotten and f.ticket.verdict is None]
        if not waiting:
            return
        judged = judge(waiting, self.engine_health)
        end_ns = time.monotonic_ns()
        self._telemetry.observe_batch(len(waiting), begin_ns, end_ns)
        for item in judged:
            ticket = item.frame.ticket
            if isinstance(item.result, Judgement):
                ticket.judgement = item.result
                ticket.taken_monotonic_ns, ticket.engine_monotonic_ns = item.frame.taken_ns, begin_ns
                self._sequencer.settle(ticket, judged_verdict(item, item.result))
            else:
                self._refuse(ticket, item.result)
        self._engine_progress_ns = end_ns

    def _refuse(self, ticket: Ticket, refusal: Refusal) -> None:
        ticket.payload = None
        self._sequencer.settle(ticket, ticket.refused(refusal.reason, refusal.detail))

    def _settle_late(self, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            self._refuse(ticket, Refusal(Reason.LATE, "It could not be judged within the recipe's max_age_ms."))

    def _extractor_key(self, ticket: Ticket) -> object:
        recipe = self._recipes.recipes.get(ticket.recipe or "")
        return recipe.inspector.extractor.identity if recipe is not None else None

    def _watch_gauges(self) -> None:
        telemetry = self._telemetry
        telemetry.queue_frames_limit.set(self._settings.queue.frames)
        telemetry.queue_bytes_limit.set(self._settings.queue.bytes)
        telemetry.cameras_limit.set(self._settings.intake.max_cameras)
        telemetry.watch(telemetry.queue_frames, lambda: self._scheduler.frames)
        telemetry.watch(telemetry.queue_bytes, lambda: self._scheduler.bytes)
        telemetry.watch(telemetry.queue_oldest_age, self._oldest_age_s)
        telemetry.watch(telemetry.in_flight, lambda: self._reception.under_way)
        telemetry.watch(telemetry.journal_lag, lambda: self._sequencer.released)
        telemetry.watch(telemetry.cameras, lambda: len(self._reception.cameras))

    def _oldest_age_s(self) -> float:
        oldest_ns = self._scheduler.oldest_received_ns()
        return (time.monotonic_ns() - oldest_ns) / 1e9 if oldest_ns is not None else 0.0
