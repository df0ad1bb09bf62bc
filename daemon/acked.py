"""The acked door's protocol at the daemon: sessions, windows, acknowledgements. docs/wire-format.md specifies it.

A sender keeps each frame until the acknowledgement of its journalled verdict, and sends it again in a new session
whenever the old one ended. So ending a session loses nothing, and is the answer to every breach of the protocol.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import structlog

from daemon.errors import MessageError
from daemon.intake import Acknowledgement, Answer, Intake, ReplyToken
from daemon.log_limit import LogLimit
from daemon.messages import FrameHeader, read_frame
from daemon.protocol import (
    ACK,
    FRAME,
    HELLO,
    PING,
    PONG,
    RESET,
    SESSION_BYTES,
    SILENT_HEARTBEATS,
    WELCOME,
    Ack,
    Hello,
    Pong,
    Reset,
    Welcome,
    parse,
)

# The longest message is [routing id, FRAME, session, header, payload].
MAX_PARTS: Final = 5
RETRY_MS: Final = 100
RETRY_WHEN_CROWDED_MS: Final = 2000

# Among more senders than there are places, one that missed its heartbeat by half is taken for gone.
OVERDUE_HEARTBEATS: Final = 1.5

log = structlog.get_logger()

# Sends one multipart message and returns whether it left; it never blocks.
Send = Callable[[list[bytes]], bool]


@dataclass(slots=True)
class Session:
    """One sender's connection, from its HELLO to its end."""

    routing_id: bytes
    id: bytes
    camera: str
    stream: int
    generation: int
    heard_ns: int
    window: int = 0
    unacknowledged: set[int] = field(default_factory=set)


@dataclass(slots=True)
class AckedCounts:
    """What the acked door has seen since the start; written by the ingest thread alone."""

    welcomes: int = 0
    resets: int = 0
    expired: int = 0
    displaced: int = 0
    overruns: int = 0
    malformed: int = 0
    unsent: int = 0


class AckedDoor:
    """Answers the messages of the acked door. All but `end_all` and `resume` are called on the ingest thread.

    `max_window` is the largest window that `intake` ever gives; `max_sessions` bounds the state that is kept.
    """

    def __init__(
        self,
        intake: Intake,
        send: Send,
        *,
        max_window: int,
        max_sessions: int,
        heartbeat_ms: int,
        max_frame_bytes: int,
    ) -> None:
        self.counts = AckedCounts()
        self._intake = intake
        self._send = send
        self._max_window = max_window
        self._max_sessions = max_sessions
        self._heartbeat_ms = heartbeat_ms
        self._max_frame_bytes = max_frame_bytes
        self._sessions: dict[bytes, Session] = {}
        self._gate = threading.Lock()
        self._generation = self._reset_generation = 0
        self._refusal: tuple[str, int] | None = None
        self._draining = False
        self._told_window = -1
        self._windows_differ = False
        self._crowded_log = LogLimit()

    @property
    def sessions(self) -> int:
        return len(self._sessions)

    def handle(self, parts: list[memoryview], count: int) -> None:
        """Answer one message; `parts` are its first MAX_PARTS parts, `count` the number of all of them."""
        routing_id = bytes(parts[0])
        kind = bytes(parts[1][:8]) if count > 1 else b""
        if kind == HELLO and count == 3:
            self._welcome(routing_id, parts[2])
        elif kind == FRAME and count >= 4:
            self._frame(routing_id, parts, count)
        elif kind == PING and count == 3:
            self._pong(routing_id, bytes(parts[2][:SESSION_BYTES]))
        else:
            self._breach(routing_id, "a message of unknown kind or number of parts")

    def acknowledge(self, answers: Iterable[Acknowledgement]) -> None:
        """Send the acknowledgements that a live session waits for."""
        for token, verdict, duplicate in answers:
            session = self._sessions.get(token.routing_id)
            if session is None or session.stream != token.stream or token.seq not in session.unacknowledged:
                continue
            session.unacknowledged.discard(token.seq)
            session.window = self._window()
            ack = Ack(
                session=session.id,
                window=session.window,
                stream=token.stream,
                seq=token.seq,
                offset=verdict.offset if verdict is not None else None,
                duplicate=duplicate,
                verdict=verdict.to_map() if verdict is not None else None,
            )
            self._answer(session, [session.routing_id, ACK, ack.pack()])

    def tell_windows(self) -> None:
        """Send each session its window if it has changed."""
        window = self._window()
        if not self._windows_differ:
            return
        self._windows_differ = False
        for session in [session for session in self._sessions.values() if session.window != window]:
            session.window = window
            self._answer(session, [session.routing_id, PONG, session.id, Pong(window=window).pack()])

    def expire(self) -> None:
        """Forget the sessions that have been silent for SILENT_HEARTBEATS."""
        oldest_ns = time.monotonic_ns() - SILENT_HEARTBEATS * self._heartbeat_ms * 1_000_000
        for session in [session for session in self._sessions.values() if session.heard_ns < oldest_ns]:
            del self._sessions[session.routing_id]
            self.counts.expired += 1

    def end_all(self, reason: str, retry_ms: int) -> None:
        """End all sessions at once and welcome none until `resume`; thread-safe.

        After this call returned no frame of a session begun earlier is handed over. `reset_ended` tells the senders.
        """
        with self._gate:
            self._generation += 1
            self._refusal = reason, retry_ms

    def resume(self) -> None:
        """Welcome new sessions again; thread-safe."""
        with self._gate:
            self._refusal = None

    def reset_ended(self) -> None:
        """Tell the senders of sessions that `end_all` ended."""
        with self._gate:
            if self._generation == self._reset_generation:
                return
            self._reset_generation = generation = self._generation
            reason, retry_ms = self._refusal or ("the session was ended", RETRY_MS)
        for session in [session for session in self._sessions.values() if session.generation != generation]:
            del self._sessions[session.routing_id]
            self._reset(session.routing_id, session.id, reason, retry_ms)

    def drain(self) -> None:
        """Take no more frames; acknowledgements still leave. Frames that come now stay with their senders."""
        self._draining = True
        self.tell_windows()

    def _window(self) -> int:
        window = 0 if self._draining else min(self._intake.window, self._max_window)
        if window != self._told_window:
            self._told_window = window
            self._windows_differ = True
        return window

    def _welcome(self, routing_id: bytes, data: memoryview) -> None:
        try:
            hello = parse(Hello, data)
        except MessageError as error:
            self._breach(routing_id, str(error))
            return
        if hello.routing_id != routing_id:
            self._breach(routing_id, "the routing id must be camera/stream, the stream in lower-case hexadecimal")
            return
        with self._gate:
            generation, refusal = self._generation, self._refusal
        if self._draining:
            refusal = "shutting_down", RETRY_WHEN_CROWDED_MS
        elif refusal is None and routing_id not in self._sessions and not self._has_place():
            refusal = "too many senders", RETRY_WHEN_CROWDED_MS
        if refusal is not None:
            self._reset(routing_id, b"", *refusal)
            return
        session = Session(
            routing_id,
            os.urandom(SESSION_BYTES),
            hello.camera,
            hello.stream,
            generation,
            heard_ns=time.monotonic_ns(),
            window=self._window(),
        )
        self._sessions[routing_id] = session
        self.counts.welcomes += 1
        welcome = Welcome(
            session=session.id,
            window=session.window,
            heartbeat_ms=self._heartbeat_ms,
            max_frame_bytes=self._max_frame_bytes,
        )
        self._answer(session, [routing_id, WELCOME, welcome.pack()])

    def _has_place(self) -> bool:
        """Whether another session fits; where none does, one whose heartbeat is overdue makes room."""
        if len(self._sessions) < self._max_sessions:
            return True
        silent = min(self._sessions.values(), key=lambda session: session.heard_ns)
        if time.monotonic_ns() - silent.heard_ns < OVERDUE_HEARTBEATS * self._heartbeat_ms * 1_000_000:
            if (held_back := self._crowded_log.due()) is not None:
                log.warning(
                    "too_many_senders",
                    limit=self._max_sessions,
                    held_back=held_back,
                    advice="Every place at the acked door is taken by a sender that is alive. Find what opens so many "
                    "sessions, or serve some of the cameras with a second daemon.",
                )
            return False
        # If it lives it is told so with its next message, says HELLO again, and has lost nothing.
        del self._sessions[silent.routing_id]
        self.counts.displaced += 1
        return True

    def _pong(self, routing_id: bytes, session_id: bytes) -> None:
        session = self._heard(routing_id, session_id)
        if session is not None:
            session.window = self._window()
            self._answer(session, [routing_id, PONG, session.id, Pong(window=session.window).pack()])

    def _frame(self, routing_id: bytes, parts: list[memoryview], count: int) -> None:
        session = self._heard(routing_id, bytes(parts[2][:SESSION_BYTES]))
        if session is None or self._draining:
            return
        header, error = read_frame(parts[3:], count - 3, max_frame_bytes=self._max_frame_bytes)
        if header is not None and not _is_of(session, header):
            header, error = None, MessageError("The header's camera or stream is not that of its session.")
        # Without an identity no acknowledgement could be told to its frame.
        if header is None:
            self.counts.malformed += 1
            self._end(session, f"malformed: {error}")
            return
        if header.seq not in session.unacknowledged and len(session.unacknowledged) >= self._max_window:
            self.counts.overruns += 1
            self._end(session, "more frames under way than the window allows")
            return
        token = ReplyToken(routing_id, session.id, session.stream, header.seq)
        with self._gate:
            if session.generation != self._generation:
                return
            session.unacknowledged.add(header.seq)
            if error is not None:
                self.counts.malformed += 1
                answer = self._intake.reject(header, error, token)
            else:
                answer = self._intake.receive(header, parts[4], token)
        if answer is Answer.REFUSED:
            self._end(session, "the daemon can't take frames now")

    def _heard(self, routing_id: bytes, session_id: bytes) -> Session | None:
        """Return the live session that the message states, or answer RESET."""
        session = self._sessions.get(routing_id)
        if session is None or session.id != session_id or session.generation != self._generation:
            refusal = self._refusal or ("unknown session", RETRY_MS)
            self._reset(routing_id, session_id, *refusal)
            return None
        session.heard_ns = time.monotonic_ns()
        return session

    def _breach(self, routing_id: bytes, reason: str) -> None:
        self.counts.malformed += 1
        session = self._sessions.pop(routing_id, None)
        self._reset(routing_id, session.id if session is not None else b"", f"malformed: {reason}", RETRY_MS)

    def _end(self, session: Session, reason: str) -> None:
        self._sessions.pop(session.routing_id, None)
        self._reset(session.routing_id, session.id, reason, RETRY_MS)

    def _reset(self, routing_id: bytes, session_id: bytes, reason: str, retry_ms: int) -> None:
        self.counts.resets += 1
        reset = Reset(reason=reason, retry_ms=retry_ms, session=session_id)
        self._send([routing_id, RESET, reset.pack()])

    def _answer(self, session: Session, parts: list[bytes]) -> None:
        """Send to a live session, or end it: a sender that is gone or doesn't read comes back with HELLO."""
        if not self._send(parts):
            self.counts.unsent += 1
            self._sessions.pop(session.routing_id, None)


def _is_of(session: Session, header: FrameHeader) -> bool:
    return header.camera == session.camera and header.stream == session.stream
