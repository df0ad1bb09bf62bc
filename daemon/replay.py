"""Replay: a thread that answers subscribers who missed verdicts, out of the journal, with a reader of its own."""

import contextlib
import threading
from typing import Any, Final, Protocol

import zmq

from daemon.door_socket import OPEN, Access, DoorSocket
from daemon.errors import JournalError, MessageError
from daemon.messages import Verdict, pack
from daemon.protocol import REPLAY_REPLY_BYTES, ReplayReply, ReplayRequest, parse
from daemon.sockets import Waker, ZmqContext

MAX_REQUEST_BYTES: Final = 4096
# Replies that may wait for one client; one that reads none gets no more, and asks again when it reads.
REPLIES_PER_CLIENT: Final = 8
READ_STEP: Final = 100


class VerdictReader(Protocol):
    """What replay needs of the journal; `daemon.journal.JournalReader` fulfils it."""

    @property
    def first_offset(self) -> int: ...

    @property
    def next_offset(self) -> int: ...

    def read(self, first_offset: int, limit: int) -> list[Verdict]: ...


class Replay:
    """Answers requests for past verdicts at `address`, on a thread of its own. Raises BindError.

    `reader` is used on that thread alone; closing it, after `stop`, is its owner's.
    """

    def __init__(self, context: ZmqContext, address: str, reader: VerdictReader, *, access: Access = OPEN) -> None:
        self.door = DoorSocket(
            context,
            zmq.ROUTER,
            address,
            access,
            maxmsgsize=MAX_REQUEST_BYTES,
            rcvhwm=REPLIES_PER_CLIENT,
            sndhwm=REPLIES_PER_CLIENT,
            router_mandatory=1,
        )
        self._socket, self.address = self.door.socket, self.door.address
        self._reader = reader
        self._waker = Waker()
        self._stop_asked = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replay", daemon=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Let the thread look whether its door was asked for a new key; thread-safe."""
        self._waker.wake()

    def stop(self) -> None:
        self._stop_asked.set()
        self._waker.wake()
        if self._thread.ident is not None:
            self._thread.join()
        self.door.close()
        self._waker.close()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._waker.fileno(), zmq.POLLIN)
        poller.register(self._socket, zmq.POLLIN)
        while not self._stop_asked.is_set():
            ready = dict(poller.poll())
            self._waker.clear()
            self.door.change_key_if_asked()
            received = self.door.receive(2) if self._socket in ready else None
            if received is not None:
                parts, count = received
                self._send(bytes(parts[0]), self._answer(parts[1] if count == 2 else None))

    def _answer(self, data: memoryview | None) -> bytes:
        try:
            request = parse(ReplayRequest, data if data is not None else b"")
        except MessageError as error:
            return ReplayReply(id=0, error=str(error)).pack()
        try:
            return self._read(request)
        except JournalError as error:
            return ReplayReply(id=request.id, error=str(error)).pack()

    def _read(self, request: ReplayRequest) -> bytes:
        # The positions are read first: whatever is pruned or appended meanwhile can only make the reply cautious.
        oldest, following = self._reader.first_offset, self._reader.next_offset
        verdicts: list[dict[str, Any]] = []
        size, first = 0, max(request.first, oldest)
        while len(verdicts) < request.limit and size < REPLAY_REPLY_BYTES:
            step = self._reader.read(first, min(READ_STEP, request.limit - len(verdicts)))
            if not step:
                break
            for verdict in step:
                values = verdict.to_map()
                verdicts.append(values)
                size += len(pack(values))
                first = max(first, (verdict.offset or 0) + 1)
        return ReplayReply(id=request.id, oldest=oldest, next=following, verdicts=verdicts).pack()

    def _send(self, routing_id: bytes, reply: bytes) -> None:
        # Full or gone: the client asks again.
        with contextlib.suppress(zmq.Again, zmq.ZMQError):
            self._socket.send_multipart([routing_id, reply], zmq.NOBLOCK)
