"""A small daemon in this process for tests of the doors and clients: real sockets, and an intake that passes all."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import zmq

from daemon.authenticator import Authenticator
from daemon.config import SecuritySettings
from daemon.errors import JournalError, MessageError
from daemon.ingest import Ingest
from daemon.intake import Answer, Moment, ReplyToken
from daemon.keys import ClientKeys
from daemon.messages import NO_CAMERA, FrameHeader, Verdict, pack
from daemon.outcomes import Outcome
from daemon.publisher import Publisher
from daemon.replay import Replay
from daemon.security import CAMERAS, SUBSCRIBERS, DoorKeys, access_for
from daemon.sockets import connect

PATIENCE_S = 20.0
PNG = b"\x89PNG\r\n\x1a\n"


def frame_header(**fields: object) -> bytes:
    """A packed header that is well unless `fields` make it otherwise; a field of None is left out."""
    values = {"v": 1, "camera": "left", "seq": 0, "captured_ns": 1, "encoding": "png", **fields}
    return pack({name: value for name, value in values.items() if value is not None})


class MemoryJournal:
    """Fulfils replay's VerdictReader, and waits for what tests wait for."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.verdicts: list[Verdict] = []
        self.pruned = 0
        self.failing = False

    @property
    def first_offset(self) -> int:
        if self.failing:
            raise JournalError("The disk has failed.")
        return self.pruned

    @property
    def next_offset(self) -> int:
        return len(self.verdicts)

    def read(self, first_offset: int, limit: int) -> list[Verdict]:
        return self.verdicts[max(first_offset, self.pruned) :][:limit]

    def append(self, verdict: Verdict) -> Verdict:
        with self.changed:
            verdict = replace(verdict, offset=len(self.verdicts))
            self.verdicts.append(verdict)
            self.changed.notify_all()
        return verdict

    def find(self, identity: tuple[str, int, int]) -> Verdict | None:
        return next((verdict for verdict in self.verdicts if verdict.identity == identity), None)

    def wait_for(self, reached: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(reached, PATIENCE_S)


class Judge:
    """Fulfils Intake: every part passes at once, or when `release` is called while it is `holding`."""

    def __init__(self, journal: MemoryJournal, line: "Line") -> None:
        self.window = 8
        self.accepting = True
        self.holding = False
        self.refusing = False
        self.acknowledging = True
        self.received: list[tuple[FrameHeader, bytes, ReplyToken | None]] = []
        self.rejected: list[tuple[FrameHeader | None, MessageError, ReplyToken | None]] = []
        self.held: dict[tuple[str, int, int], tuple[Verdict, ReplyToken | None]] = {}
        self._journal = journal
        self._line = line

    def receive(
        self, header: FrameHeader, payload: memoryview, reply: ReplyToken | None, received: Moment | None = None
    ) -> Answer:
        with self._journal.changed:
            self.received.append((header, bytes(payload), reply))
            return self._take(header, Outcome.PASS, reply)

    def reject(
        self,
        header: FrameHeader | None,
        error: MessageError,
        reply: ReplyToken | None,
        received: Moment | None = None,
    ) -> Answer:
        with self._journal.changed:
            self.rejected.append((header, error, reply))
            return self._take(header, Outcome.NOT_INSPECTED, reply, error)

    def release(self) -> None:
        """Settle what is held and hold nothing more."""
        with self._journal.changed:
            self.holding = False
            held, self.held = self.held, {}
            for verdict, reply in held.values():
                self._settle(verdict, reply)

    def _take(
        self, header: FrameHeader | None, outcome: Outcome, reply: ReplyToken | None, error: MessageError | None = None
    ) -> Answer:
        self._journal.changed.notify_all()
        if self.refusing:
            return Answer.REFUSED
        verdict = Verdict(
            camera=header.camera if header is not None else NO_CAMERA,
            stream=(header.stream if header is not None else None) or 0,
            seq=header.seq if header is not None else len(self.rejected),
            part=header.part if header is not None else None,
            verdict=outcome,
            reason=error.reason if error is not None else None,
            captured_ns=0,
            received_ns=0,
        )
        known = self._journal.find(verdict.identity)
        if known is not None:
            if reply is not None:
                self._line.ingest.acknowledge([(reply, known, True)])
        elif self.holding:
            self.held[verdict.identity] = verdict, reply
        else:
            self._settle(verdict, reply)
        return Answer.TAKEN

    def _settle(self, verdict: Verdict, reply: ReplyToken | None) -> None:
        verdict = self._journal.append(verdict)
        self._line.publish(verdict)
        if reply is not None and self.acknowledging:
            self._line.ingest.acknowledge([(reply, verdict, False)])


class Line:
    """The doors of a daemon on sockets below `folder`; `crash` and `start` stand for a daemon that is restarted."""

    def __init__(
        self, folder: Path, *, tcp: bool = False, keys: DoorKeys | None = None, ipc_mode: int = 0o600, **options: int
    ) -> None:
        self.journal = MemoryJournal()
        usual = {"max_frame_bytes": 2**20, "max_window": 8, "heartbeat_ms": 200, "max_cameras": 16, "max_streams": 32}
        self.options: dict[str, Any] = {**usual, **options}
        self.keys = keys
        self.ipc_mode = ipc_mode
        self.push, self.acked, self.verdicts, self.replay_address = (
            "tcp://127.0.0.1:0" if tcp else f"ipc://{folder}/{door}" for door in ("push", "acked", "verdicts", "replay")
        )
        self.publishing = threading.RLock()
        self.silent = False
        self.start()

    def start(self) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.authenticator = None
        if self.keys is not None:
            self.authenticator = Authenticator(self.context, self.keys.lists)
            self.authenticator.start()
        settings = SecuritySettings(ipc_mode=self.ipc_mode)
        cameras, subscribers = (access_for(name, settings, self.keys) for name in (CAMERAS, SUBSCRIBERS))
        self.judge = Judge(self.journal, self)
        self.publisher = Publisher(self.context, self.verdicts, high_water_mark=100, access=subscribers)
        self.replay = Replay(self.context, self.replay_address, self.journal, access=subscribers)
        self.ingest = Ingest(self.context, self.judge, push=self.push, acked=self.acked, access=cameras, **self.options)
        self.push, self.acked = self.ingest.push_address, self.ingest.acked_address
        self.verdicts, self.replay_address = self.publisher.address, self.replay.address
        self.replay.start()
        self.ingest.start()

    def crash(self) -> None:
        """Close everything without a word to anyone."""
        self.ingest.door.handle = lambda parts, count: None
        self.ingest.door.reset_ended = lambda: None
        self.ingest.stop()
        self.replay.stop()
        with self.publishing:
            self.publisher.close()
        self._end()

    def publish(self, verdict: Verdict) -> None:
        if not self.silent:
            with self.publishing:
                self.publisher.publish(verdict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_args: object) -> None:
        if not self.context.closed:
            self.ingest.stop()
            self.replay.stop()
            self.publisher.close()
            self._end()

    def _end(self) -> None:
        if self.authenticator is not None:
            self.authenticator.stop()
        self.context.term()


class Peer:
    """A client that says exactly what a test tells it to."""

    def __init__(
        self, kind: int, address: str, routing_id: bytes | None = None, keys: ClientKeys | None = None
    ) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(kind)
        self.socket.linger = 0
        self.socket.rcvtimeo = self.socket.sndtimeo = int(PATIENCE_S * 1000)
        if routing_id is not None:
            self.socket.routing_id = routing_id
        connect(self.socket, address, keys)

    def send(self, *parts: bytes) -> None:
        self.socket.send_multipart(parts)

    def receive(self) -> list[bytes]:
        return self.socket.recv_multipart()

    def ask(self, *parts: bytes) -> list[bytes]:
        self.send(*parts)
        return self.receive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_args: object) -> None:
        self.socket.close(linger=0)
        self.context.term()


def identities(verdicts: Sequence[Verdict]) -> list[tuple[str, int, int]]:
    return [verdict.identity for verdict in verdicts]
