"""`VerdictStream`: every verdict once and in order, through lost messages and restarts of either side."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from types import TracebackType
from typing import Final, Self

import zmq

from daemon.errors import MessageError, NotRunningError, OffsetsLostError
from daemon.keys import ClientKeys
from daemon.messages import VERDICT_TOPIC, Verdict
from daemon.protocol import MAX_REPLAY_VERDICTS, ReplayReply, ReplayRequest, parse
from daemon.sockets import ZmqContext, ZmqSocket, connect, open_socket

# How often the daemon is asked whether the last verdicts were missed, or its journal emptied.
POSITION_INTERVAL_S: Final = 1.0
REPLY_TIMEOUT_S: Final = 2.0
RETRY_S: Final = 0.1
RECONNECT_MS: Final = 50
RECONNECT_MAX_MS: Final = 200
# Verdicts kept while those before them are replayed; what comes on top is replayed too.
AHEAD_LIMIT: Final = 1000
# How long verdicts may come and wait here for an answer of replay; a cut network takes it ten seconds to come back.
REPLAY_SILENT_S: Final = 15.0
# A longer pause between two verdicts counts as this: daemon, network, or whoever reads here, may have been away.
LONGEST_STEP_S: Final = 2.0
MESSAGES_PER_TURN: Final = 100


class VerdictStream:
    """Iterates over the verdicts of a daemon; `cameras` filters them here, since a gap shows in the offsets of all.

    `from_offset`: the first verdict wanted; None begins with the next one that is published. `timeout`: seconds without
    a verdict after which `next` raises TimeoutError, and may be called again; None waits for ever.
    Verdicts that the journal no longer holds are reported in their place: by `on_lost(error)` if given, else `next`
    raises the OffsetsLostError; either way the iteration can go on after it.
    A verdict that could not be journalled has no offset; it is yielded when it comes, and can't be replayed.
    Where verdicts come but can't be handed out in order because replay has not answered for REPLAY_SILENT_S, `next`
    raises NotRunningError, and may be called again. A daemon that is down is waited for.
    `keys`: for a daemon that asks for them.

    Not thread-safe. A line controller that keeps `position` after acting on a verdict misses none when it restarts.
    """

    def __init__(
        self,
        verdicts_address: str,
        replay_address: str,
        *,
        from_offset: int | None = None,
        cameras: Collection[str] | None = None,
        timeout: float | None = None,
        on_lost: Callable[[OffsetsLostError], None] | None = None,
        keys: ClientKeys | None = None,
    ) -> None:
        self.timeout = timeout
        self.replayed = 0
        self._addresses = verdicts_address, replay_address
        self._cameras = frozenset(cameras) if cameras is not None else None
        self._on_lost = on_lost
        self._context: ZmqContext = zmq.Context()
        reconnect = {"reconnect_ivl": RECONNECT_MS, "reconnect_ivl_max": RECONNECT_MAX_MS}
        self._live: ZmqSocket = open_socket(self._context, zmq.SUB, subscribe=VERDICT_TOPIC, **reconnect)
        self._replay: ZmqSocket = open_socket(self._context, zmq.DEALER, immediate=1, **reconnect)
        try:
            connect(self._live, verdicts_address, keys)
            connect(self._replay, replay_address, keys)
        except NotRunningError:
            self.close()
            raise
        self._poller = zmq.Poller()
        self._poller.register(self._live, zmq.POLLIN)
        self._poller.register(self._replay, zmq.POLLIN)
        self._position = from_offset
        self._expected = from_offset
        self._ready: deque[Verdict | OffsetsLostError] = deque()
        self._ahead: dict[int, Verdict] = {}
        # The verdict before the expected one: asked for again, it shows whether the journal is still the same.
        self._tail: Verdict | None = None
        self._request: ReplayRequest | None = None
        self._request_tail: Verdict | None = None
        self._requests = 0
        self._ask_at = self._patient_until = 0.0
        # How long verdicts have come without any of them, or replay, moving on; and when the last one came.
        self._held_s = 0.0
        self._held_at = time.monotonic()

    @property
    def position(self) -> int | None:
        """The offset after the verdict last yielded or filtered out: `from_offset` of a stream that goes on from here.

        None until the daemon has told where it stands.
        """
        return self._position

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Verdict:
        verdict = self.next(self.timeout)
        if verdict is None:
            raise TimeoutError(f"No verdict came within {self.timeout} s.")
        return verdict

    def next(self, timeout_s: float | None = None) -> Verdict | None:
        """Return the next verdict, or None when `timeout_s` is over. May raise OffsetsLostError, NotRunningError."""
        deadline = time.monotonic() + timeout_s if timeout_s is not None else None
        while True:
            while self._ready:
                verdict = self._settle(self._ready.popleft())
                if verdict is not None:
                    return verdict
            if deadline is not None and time.monotonic() >= deadline:
                return None
            self._receive(deadline)

    def close(self) -> None:
        self._live.close()
        self._replay.close()
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, _error: object, _trace: TracebackType | None) -> None:
        self.close()

    def _settle(self, event: Verdict | OffsetsLostError) -> Verdict | None:
        if isinstance(event, OffsetsLostError):
            self._position = event.next
            if self._on_lost is None:
                raise event
            self._on_lost(event)
            return None
        if event.offset is not None:
            self._position = event.offset + 1
        return event if self._cameras is None or event.camera in self._cameras else None

    def _receive(self, deadline: float | None) -> None:
        """Wait for messages, until `deadline` at the latest, and take in those that wait."""
        self._ask()
        until = self._ask_at if deadline is None else min(self._ask_at, deadline)
        ready = dict(self._poller.poll(max(int((until - time.monotonic()) * 1000) + 1, 0)))
        with contextlib.suppress(zmq.Again):
            for _ in range(MESSAGES_PER_TURN if self._live in ready else 0):
                self._take_live(self._live.recv_multipart(zmq.NOBLOCK))
        with contextlib.suppress(zmq.Again):
            while self._replay in ready:
                self._take_reply(self._replay.recv_multipart(zmq.NOBLOCK))
        if self._held_s > REPLAY_SILENT_S:
            self._move_on()
            verdicts, replay = self._addresses
            raise NotRunningError(
                f"Verdicts come from {verdicts}, but the daemon's replay door at {replay} has not answered for "
                f"{REPLAY_SILENT_S:g} s, so none can be handed out in order. Is the address right, and does a firewall "
                "let it through?"
            )

    def _ask(self) -> None:
        """Ask for what is missing, or for the daemon's position when it is time."""
        now = time.monotonic()
        if now < self._ask_at:
            return
        self._requests += 1
        limit = MAX_REPLAY_VERDICTS if self._expected is not None else 0
        first = (self._expected or 0) - (self._tail is not None)
        request = ReplayRequest(id=self._requests, first=first, limit=limit)
        try:
            self._replay.send(request.pack(), zmq.NOBLOCK)
        except zmq.Again:
            self._request, self._ask_at = None, now + RETRY_S
        else:
            self._request, self._request_tail, self._ask_at = request, self._tail, now + REPLY_TIMEOUT_S

    def _take_live(self, message: list[bytes]) -> None:
        # A message that can't be read shows as a gap, and its verdict is replayed.
        with contextlib.suppress(MessageError):
            verdict = Verdict.unpack(message[-1])
            if verdict.offset is None:
                self._ready.append(verdict)
            else:
                self._take(verdict)
                self._catch_up()
                if self._ahead:
                    self._hold()
                if self._ahead and self._request is None:
                    self._ask_at = self._patient_until

    def _hold(self) -> None:
        """Note that a verdict has come which must wait for replay."""
        now = time.monotonic()
        self._held_s += min(now - self._held_at, LONGEST_STEP_S)
        self._held_at = now

    def _move_on(self) -> None:
        self._held_s, self._held_at = 0.0, time.monotonic()

    def _take(self, verdict: Verdict) -> None:
        offset = verdict.offset if verdict.offset is not None else -1
        if offset == self._expected:
            self._ahead.pop(offset, None)
            self._deliver(verdict, offset)
        elif (self._expected is None or offset > self._expected) and len(self._ahead) < AHEAD_LIMIT:
            self._ahead[offset] = verdict

    def _catch_up(self) -> None:
        """Move on what is no longer ahead; whatever still is shows that verdicts are missing."""
        while self._expected is not None and self._expected in self._ahead:
            self._deliver(self._ahead.pop(self._expected), self._expected)

    def _deliver(self, verdict: Verdict, offset: int) -> None:
        self._ready.append(verdict)
        self._tail = verdict
        self._expected = offset + 1
        self._move_on()

    def _take_reply(self, message: list[bytes]) -> None:
        reply = parse(ReplayReply, message[-1])
        self._move_on()
        request = self._request
        if request is None or reply.id != request.id:
            return
        self._request = None
        before = self._expected
        if reply.error is None:
            self._take_replayed(reply, request)
        behind = bool(self._ahead) or self._expected is None or self._expected < reply.next
        if behind and self._expected != before:
            self._ask_at = self._patient_until = 0.0
        else:
            # Asking again at once would bring the same answer.
            self._ask_at = time.monotonic() + (RETRY_S if behind else POSITION_INTERVAL_S)
            self._patient_until = self._ask_at if behind else 0.0

    def _take_replayed(self, reply: ReplayReply, request: ReplayRequest) -> None:
        verdicts = [Verdict.from_map(values) for values in reply.verdicts]
        if self._expected is None:
            self._expected = self._position = min((reply.next, *self._ahead))
        elif self._is_another_journal(reply, request, verdicts):
            self._lose(reply.oldest, emptied=True)
        elif reply.oldest > self._expected:
            self._lose(reply.oldest, emptied=False)
        before = self._expected
        for verdict in verdicts:
            self._take(verdict)
        self.replayed += self._expected - before
        self._catch_up()

    def _is_another_journal(self, reply: ReplayReply, request: ReplayRequest, verdicts: Sequence[Verdict]) -> bool:
        """Whether verdicts that were had already are no longer there, or others stand in their place."""
        tail = self._request_tail
        if tail is None:
            return reply.next < request.first
        return reply.next <= request.first or any(
            verdict.offset == tail.offset and verdict.identity != tail.identity for verdict in verdicts[:1]
        )

    def _lose(self, oldest: int, *, emptied: bool) -> None:
        self._ready.append(OffsetsLostError(self._expected or 0, oldest, emptied=emptied))
        self._expected = oldest
        self._tail = None
        self._ahead = {} if emptied else {o: verdict for o, verdict in self._ahead.items() if o >= oldest}
