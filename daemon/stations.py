"""Everything that one daemon has open: journal, sockets, archive and pipeline, opened and closed together."""

import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

import zmq

from daemon import security
from daemon.archive import Archive
from daemon.authenticator import Authenticator
from daemon.config import Settings
from daemon.door_socket import DoorSocket
from daemon.errors import ReloadError
from daemon.ingest import Ingest
from daemon.journal import Journal, JournalReader
from daemon.journal_file import JOURNAL_FILE as JOURNAL_FILE
from daemon.pipeline import Pipeline
from daemon.publisher import Publisher
from daemon.replay import Replay
from daemon.retention import Retention
from daemon.security import CAMERAS, SUBSCRIBERS, DoorKeys
from daemon.sockets import ZmqContext
from daemon.streams import StreamLedger
from daemon.telemetry import Telemetry

# An idle sink looks at its door once a second; one that waits for its disk does so later.
REKEY_S: Final = 10.0


class Stations:
    """What `open_stations` opened. `addresses`: door -> real address, "" where closed.

    `keys`: those of the doors; None where they ask for none, and then there is no authenticator.
    """

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        ingest: Ingest,
        publisher: Publisher | None,
        replay: Replay | None,
        archive: Archive | None,
        authenticator: Authenticator | None,
        keys: DoorKeys | None,
        addresses: dict[str, str],
        resources: ExitStack,
    ) -> None:
        self.pipeline = pipeline
        self.addresses = addresses
        self.keys = keys
        self._publisher = publisher
        self._authenticator = authenticator
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

    @property
    def doors(self) -> list[DoorSocket]:
        readers = [station.door for station in (self._publisher, self._replay) if station is not None]
        return [*self._ingest.doors, *readers]

    @property
    def open_addresses(self) -> list[str]:
        return [address for address in self.addresses.values() if address]

    @property
    def guarded(self) -> bool:
        """Whether doors that ask for keys have someone to ask."""
        return self._authenticator is None or self._authenticator.alive

    def change_keys(self, keys: DoorKeys) -> None:
        """Take up other keys than those before; both ask for some. Ends the connections of doors that lost one.

        Returns once every such door has its new key. Raises ReloadError for one that has not yet.
        """
        before = self.keys
        if self._authenticator is None or before is None:
            return
        # The lists come first: whoever connects to a door's new listener is asked for a key that is on the new list.
        self._authenticator.allow(keys.lists)
        self.keys = keys
        doors: dict[str, list[DoorSocket]] = {
            CAMERAS: self._ingest.doors,
            SUBSCRIBERS: [station.door for station in (self._publisher, self._replay) if station is not None],
        }
        asked = [
            (door, door.ask_for_key(keys.own.secret))
            for name, group in doors.items()
            if security.must_reconnect(name, before, keys)
            for door in group
        ]
        self._ingest.wake()
        if self._replay is not None:
            self._replay.wake()
        deadline = time.monotonic() + REKEY_S
        for door, done in asked:
            if not done.wait(max(deadline - time.monotonic(), 0)):
                raise ReloadError(
                    f"The door {door.address} is busy and has the new keys not yet; it takes them up by itself. If it "
                    "doesn't, restart the daemon."
                )

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
    """Open the journal and bind every address; only the authenticator runs yet.

    Raises BindError, JournalError and KeyFileError.
    """
    keys = security.read_door_keys(settings.security)
    with ExitStack() as resources:
        context = resources.enter_context(zmq.Context())
        authenticator = _authenticator(context, keys, telemetry, resources)
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
                access=security.access_for(SUBSCRIBERS, settings.security, keys),
            )
            resources.callback(publisher.close)
        replay = None
        if settings.publish.replay:
            reader = JournalReader(path)
            resources.callback(reader.close)
            access = security.access_for(SUBSCRIBERS, settings.security, keys)
            replay = Replay(context, settings.publish.replay, reader, access=access)
            resources.callback(replay.stop)
        ledger = StreamLedger(
            max_cameras=settings.intake.max_cameras,
            max_streams=settings.intake.max_streams,
            draw=lambda: secrets.randbits(32),
            lookup=lookup.stream,
            recent=lookup.recent_streams,
        )
        ledger.load(journal.kept_streams(time.time_ns()))
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
            max_cameras=settings.intake.max_cameras,
            max_streams=settings.intake.max_streams,
            access=security.access_for(CAMERAS, settings.security, keys),
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
            publisher=publisher,
            replay=replay,
            archive=archive,
            authenticator=authenticator,
            keys=keys,
            addresses={
                "push": ingest.push_address,
                "acked": ingest.acked_address,
                "verdicts": publisher.address if publisher is not None else "",
                "replay": replay.address if replay is not None else "",
            },
            resources=resources.pop_all(),
        )


def _authenticator(
    context: ZmqContext, keys: DoorKeys | None, telemetry: Telemetry, resources: ExitStack
) -> Authenticator | None:
    """Start it before any door is bound, and let it end after the last is closed."""
    if keys is None:
        return None
    authenticator = Authenticator(context, keys.lists, telemetry.count_connection)
    resources.callback(authenticator.stop)
    authenticator.start()
    telemetry.watch(telemetry.authenticator_alive, lambda: float(authenticator.alive))
    return authenticator
