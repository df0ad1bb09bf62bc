"""Everything that one daemon has open: journal, sockets, archive and pipeline, opened and closed together."""

import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack

import zmq

from daemon.archive import Archive
from daemon.config import Settings
from daemon.ingest import Ingest
from daemon.journal import Journal, JournalReader
from daemon.journal_file import JOURNAL_FILE as JOURNAL_FILE
from daemon.pipeline import Pipeline
from daemon.publisher import Publisher
from daemon.replay import Replay
from daemon.retention import Retention
from daemon.streams import StreamLedger
from daemon.telemetry import Telemetry


class Stations:
    """What `open_stations` opened. `addresses`: door -> real address, "" where closed."""

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        ingest: Ingest,
        replay: Replay | None,
        archive: Archive | None,
        addresses: dict[str, str],
        resources: ExitStack,
    ) -> None:
        self.pipeline = pipeline
        self.addresses = addresses
        self._ingest = ingest
        self._replay = replay
        self._archive = archive
        self._resources = resources
        self._open = False

    def open_doors(self) -> None:
        """Take frames from now on."""
        self._open = True
        self._ingest.start()
        if self._replay is not None:
            self._replay.start()

    def dead_thread(self) -> str | None:
        """Return the name of a thread that should be running and isn't."""
        if not self.pipeline.alive:
            return "pipeline"
        if self._open and not self._ingest.alive:
            return "ingest"
        if self._open and self._replay is not None and not self._replay.alive:
            return "replay"
        return None

    def drain(self, limit_s: float) -> int:
        """Take no more frames, let every verdict leave; return how many parts were cut off as `shutting_down`."""
        begin = time.monotonic()
        if self._open:
            self._ingest.drain()
        return self.pipeline.drain(max(limit_s - (time.monotonic() - begin), 0.0))

    def close(self) -> None:
        self._resources.close()


def open_stations(settings: Settings, telemetry: Telemetry, on_journal: Callable[[bool], None]) -> Stations:
    """Open the journal and bind every address; nothing runs yet. Raises BindError and JournalError."""
    with ExitStack() as resources:
        context = resources.enter_context(zmq.Context())
        path = settings.journal_dir / JOURNAL_FILE
        retention = Retention(max_age_days=settings.journal.max_age_days, max_bytes=settings.journal.max_bytes)
        journal = Journal(path, retention)
        resources.callback(journal.close)
        lookup = JournalReader(path)
        resources.callback(lookup.close)
        archive = None
        if settings.archive.enabled:
            archive = Archive(
                settings.archive, on_written=telemetry.archive_parts.inc, on_dropped=telemetry.archive_dropped.inc
            )
            resources.callback(archive.close)
            telemetry.watch(telemetry.archive_queue, lambda: archive.waiting)
            telemetry.watch(telemetry.archive_bytes, lambda: archive.size_bytes)
            telemetry.watch(telemetry.archive_lag, lambda: archive.lag_s)
        publisher = None
        if settings.publish.verdicts:
            publisher = Publisher(
                context,
                settings.publish.verdicts,
                high_water_mark=settings.publish.high_water_mark,
                most_heatmaps=settings.publish.heatmap_subscriptions,
                on_behind=telemetry.subscribers_behind.inc,
            )
            resources.callback(publisher.close)
        replay = None
        if settings.publish.replay:
            reader = JournalReader(path)
            resources.callback(reader.close)
            replay = Replay(context, settings.publish.replay, reader)
            resources.callback(replay.stop)
        ledger = StreamLedger(
            max_cameras=settings.intake.max_cameras,
            max_streams=settings.intake.max_streams,
            draw=lambda: secrets.randbits(32),
            lookup=lookup.stream,
        )
        ledger.load(journal.streams())
        pipeline = Pipeline(
            settings,
            telemetry=telemetry,
            ledger=ledger,
            lookup=lookup,
            journal=journal,
            publisher=publisher,
            archive=archive,
            on_journal=on_journal,
        )
        ingest = Ingest(
            context,
            pipeline.intake,
            push=settings.intake.push,
            acked=settings.intake.acked,
            max_frame_bytes=settings.intake.max_frame_bytes,
            max_window=settings.intake.window,
            heartbeat_ms=settings.intake.heartbeat_ms,
        )
        resources.callback(ingest.stop)
        pipeline.attach(ingest)
        telemetry.watch(telemetry.senders, lambda: ingest.senders)
        if publisher is not None:
            telemetry.watch(telemetry.subscribers, lambda: publisher.subscribers)
            telemetry.watch(telemetry.heatmap_subscribers, lambda: publisher.heatmap_subscribers)
            telemetry.heatmap_subscribers_limit.set(settings.publish.heatmap_subscriptions)
        telemetry.watch(telemetry.journal_bytes, lambda: journal.size_bytes)
        telemetry.watch(telemetry.journal_next_offset, lambda: journal.next_offset)
        return Stations(
            pipeline=pipeline,
            ingest=ingest,
            replay=replay,
            archive=archive,
            addresses={
                "push": ingest.push_address,
                "acked": ingest.acked_address,
                "verdicts": publisher.address if publisher is not None else "",
                "replay": replay.address if replay is not None else "",
            },
            resources=resources.pop_all(),
        )
