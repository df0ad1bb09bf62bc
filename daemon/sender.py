"""`FrameSender`: sends a camera's frames so that each is judged exactly once, through any restart of the daemon."""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import zmq

from daemon.errors import MessageError, NotRunningError, SenderClosedError
from daemon.frame_buffer import FrameBuffer, WhenFull
from daemon.frame_fields import Pixels, check_sender, frame_bytes, header_packer
from daemon.keys import ClientKeys
from daemon.messages import Verdict
from daemon.protocol import (
    ACK,
    FRAME,
    HELLO,
    PING,
    PONG,
    RESET,
    SILENT_HEARTBEATS,
    WELCOME,
    Ack,
    Hello,
    Pong,
    Reset,
    Welcome,
    parse,
    sender_routing_id,
)
from daemon.repeated_resets import RepeatedResets
from daemon.sockets import Waker, ZmqContext, ZmqSocket, connect, open_socket

# A daemon that loads its banks answers HELLO when it is ready; a dead one is noticed by TCP's keepalives.
HELLO_TIMEOUT_S: Final = 15.0
HELLO_RETRY_S: Final = 0.1
RECONNECT_MS: Final = 50
RECONNECT_MAX_MS: Final = 200
# With keys, so long without a connection means: look whether the files of keys hold others by now.
KEYS_READ_AGAIN_S: Final = 5.0


class FrameSender:
    """Keeps each frame until the daemon has put its verdict on disk, and sends it again whenever a connection broke.

    `address` is the daemon's acked door. `stream`: what tells this run of the camera from earlier ones; drawn at random
    by default. One who keeps `stream` and the next seq on disk may go on with them by `first_seq`.
    `buffer_frames`: unacknowledged frames kept; `when_full` decides about one more: "block" until there is room,
    "raise" BufferFullError, or "drop_oldest", which is counted and told to `on_drop(seq)`. The daemon publishes a
    dropped part as `missing`; one that had been sent already, as happens with fewer `buffer_frames` than the daemon's
    window, may get its verdict there all the same.
    `on_ack(verdict)` and `on_refused(reason)` run on the sender's own thread; an error of theirs stops the sender.
    `on_refused`: the daemon answers RESET again and again and acknowledges nothing. The frames are kept and sent again
    until that ends, but one that is `malformed` to this daemon stays so. Without `on_refused` the log gets a warning.
    `keys`: for a daemon that asks for them. While there is no connection their files are read again, so that a new key
    of the daemon costs no frame.

    Thread-safe. As a context manager it waits at its end for the last acknowledgements, `flush_s` at the most.
    """

    def __init__(
        self,
        address: str,
        camera: str,
        *,
        stream: int | None = None,
        first_seq: int = 0,
        buffer_frames: int = 64,
        when_full: WhenFull = "block",
        on_ack: Callable[[Verdict], None] | None = None,
        on_drop: Callable[[int], None] | None = None,
        on_refused: Callable[[str], None] | None = None,
        flush_s: float = 10.0,
        keys: ClientKeys | None = None,
    ) -> None:
        self.address = address
        self.camera = camera
        self.stream = stream if stream is not None else int.from_bytes(os.urandom(8), "big")
        check_sender(camera, self.stream, first_seq)
        self._hello = Hello(camera=camera, stream=self.stream)
        self._buffer = FrameBuffer(buffer_frames, when_full, first_seq)
        self._on_ack = on_ack
        self._on_drop = on_drop
        self._resets = RepeatedResets(f"Camera {camera} at {address}", on_refused)
        self._flush_s = flush_s
        self._keys = keys
        self._closing = threading.Event()
        self._waker = Waker()
        self._context: ZmqContext = zmq.Context()
        try:
            first = _Connection(self._context, address, self._hello, keys)
        except NotRunningError:
            self._context.term()
            self._waker.close()
            raise
        self._thread = threading.Thread(target=self._run, args=(first,), name=f"sender-{camera}", daemon=True)
        self._thread.start()

    @property
    def sent(self) -> int:
        """Frames accepted by `send`: acknowledged + dropped + pending."""
        return self._buffer.sent

    @property
    def acknowledged(self) -> int:
        """Frames whose verdict is in the daemon's journal."""
        return self._buffer.acknowledged

    @property
    def dropped(self) -> int:
        """Frames given up because the buffer was full."""
        return self._buffer.dropped

    @property
    def resent(self) -> int:
        """How often a frame was sent once more after a connection broke."""
        return self._buffer.resent

    @property
    def pending(self) -> int:
        """Frames kept: not yet acknowledged."""
        return len(self._buffer)

    @property
    def refusal(self) -> str | None:
        """Why the daemon refuses this sender again and again; None while it doesn't."""
        return self._resets.reason

    def send(self, payload: Pixels, **fields: object) -> int:
        """Take one frame and return its seq; the sender's thread does the rest.

        `payload`: a JPEG or PNG file's bytes, or pixels: uint8 or uint16 [height, width] or [height, width, 3] (RGB;
        color="bgr" says otherwise). `fields`: header fields such as part, trigger, recipe, bits, captured_ns.
        Raises MessageError for fields that break the wire format, BufferFullError, SenderClosedError.
        """
        pack_header = header_packer(self.camera, self.stream, payload, fields)
        seq, dropped = self._buffer.add(pack_header, frame_bytes(payload))
        self._waker.wake()
        if dropped is not None and self._on_drop is not None:
            self._on_drop(dropped)
        return seq

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until every frame is acknowledged; False when `timeout_s` was too short. Raises SenderClosedError."""
        return self._buffer.wait_until_empty(timeout_s)

    def close(self) -> None:
        """Stop at once; frames not acknowledged stay counted by `pending`."""
        self._closing.set()
        self._buffer.close(SenderClosedError(f"The sender of camera {self.camera} is closed."))
        self._waker.wake()
        if self._thread is not threading.current_thread():
            self._thread.join()
        self._waker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self.flush(self._flush_s)
        finally:
            self.close()

    def _run(self, connection: "_Connection") -> None:
        try:
            while True:
                try:
                    self._converse(connection)
                finally:
                    connection.close()
                if self._closing.is_set():
                    return
                self._keys = self._keys.read_again() if self._keys is not None else None
                connection = _Connection(self._context, self.address, self._hello, self._keys)
        except BaseException as error:
            failure = SenderClosedError(f"The sender of camera {self.camera} was stopped by an error: {error!r}.")
            failure.__cause__ = error
            self._buffer.close(failure)
            raise
        finally:
            self._context.term()

    def _converse(self, connection: "_Connection") -> None:
        """Talk until the connection is dead or the sender closes."""
        self._buffer.rewind()
        poller = zmq.Poller()
        for source in (connection.socket, connection.monitor, self._waker.fileno()):
            poller.register(source, zmq.POLLIN)
        while not self._closing.is_set() and not connection.dead:
            ready = dict(poller.poll(connection.timeout_ms()))
            self._waker.clear()
            session = connection.session
            if connection.monitor in ready:
                connection.note_events()
            if connection.session != session:
                self._buffer.rewind()
            if connection.socket in ready:
                self._read(connection)
            connection.keep_alive()
            self._write(connection)

    def _read(self, connection: "_Connection") -> None:
        while (message := connection.receive()) is not None:
            session = connection.session
            answer = connection.take(message)
            if connection.session != session:
                self._buffer.rewind()
            if isinstance(answer, Reset):
                self._resets.note(answer.reason)
            elif answer is not None and answer.stream == self.stream:
                self._acknowledge(answer)

    def _acknowledge(self, ack: Ack) -> None:
        try:
            verdict = ack.unpack_verdict()
        except MessageError:
            return  # what it acknowledges is kept
        self._resets.end()
        if self._buffer.acknowledge(ack.seq) and verdict is not None and self._on_ack is not None:
            self._on_ack(verdict)

    def _write(self, connection: "_Connection") -> None:
        while connection.session is not None and (frame := self._buffer.take(connection.window)) is not None:
            if not connection.send([FRAME, connection.session, frame.header, connection.fit(frame.payload)]):
                connection.lose_session()
                self._buffer.rewind()


class _Connection:
    """One DEALER socket and the session on it; a dead one is replaced by another with the same routing id."""

    def __init__(self, context: ZmqContext, address: str, hello: Hello, keys: ClientKeys | None) -> None:
        self.socket: ZmqSocket = open_socket(
            context,
            zmq.DEALER,
            routing_id=sender_routing_id(hello.camera, hello.stream),
            # Without a connection nothing is queued: frames wait in the sender's buffer alone.
            immediate=1,
            reconnect_ivl=RECONNECT_MS,
            reconnect_ivl_max=RECONNECT_MAX_MS,
            sndhwm=0,
        )
        self.monitor: ZmqSocket = self.socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._connect(address, keys)
        self.session: bytes | None = None
        self.window = 0
        self.dead = False
        self._hello = hello.pack()
        self._connected = False
        self._keys_old_at = time.monotonic() + KEYS_READ_AGAIN_S if keys is not None else None
        self._hello_at: float | None = None
        self._hello_sent: float | None = None
        self._heartbeat_s = HELLO_TIMEOUT_S
        self._heard = self._pinged = time.monotonic()
        self._max_frame_bytes: int | None = None

    def _connect(self, address: str, keys: ClientKeys | None) -> None:
        try:
            connect(self.socket, address, keys)
        except NotRunningError:
            self.monitor.close(linger=0)
            raise

    def close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=0)

    def timeout_ms(self) -> int | None:
        """Return when `keep_alive` has something to do; None while there is no connection, nor keys to read again."""
        if not self._connected and self._keys_old_at is None:
            return None
        if not self._connected:
            due = self._keys_old_at or 0.0
        elif self.session is not None:
            due = min(self._pinged + self._heartbeat_s, self._heard + SILENT_HEARTBEATS * self._heartbeat_s)
        elif self._hello_sent is not None:
            due = self._hello_sent + HELLO_TIMEOUT_S
        else:
            due = self._hello_at or 0.0
        return max(int((due - time.monotonic()) * 1000) + 1, 0)

    def note_events(self) -> None:
        """Take in what happened to the connection below."""
        with contextlib.suppress(zmq.Again):
            while True:
                event = int.from_bytes(self.monitor.recv_multipart(zmq.NOBLOCK)[0][:2], "little")
                self.lose_session()
                # A refused connection is lost again and again; the first time counts.
                if self._connected and self._keys_old_at is not None:
                    self._keys_old_at = time.monotonic() + KEYS_READ_AGAIN_S
                self._connected = event == zmq.EVENT_HANDSHAKE_SUCCEEDED

    def lose_session(self) -> None:
        """Begin again with HELLO, at once if there is a connection."""
        self.session = self._hello_sent = None
        self._hello_at = time.monotonic()

    def keep_alive(self) -> None:
        """Send the HELLO or PING that is due; declare the connection dead when its peer is."""
        now = time.monotonic()
        if not self._connected:
            self.dead = self._keys_old_at is not None and now >= self._keys_old_at
            return
        if self.session is not None:
            self.dead = now > self._heard + SILENT_HEARTBEATS * self._heartbeat_s
            if now >= self._pinged + self._heartbeat_s:
                self._pinged = now
                self.send([PING, self.session])
        elif self._hello_sent is not None:
            self.dead = now > self._hello_sent + HELLO_TIMEOUT_S
        elif self._hello_at is not None and now >= self._hello_at:
            if self.send([HELLO, self._hello]):
                self._hello_sent = now
            else:
                self._hello_at = now + HELLO_RETRY_S

    def send(self, parts: list[bytes]) -> bool:
        try:
            self.socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self) -> list[bytes] | None:
        try:
            return self.socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None

    def take(self, message: list[bytes]) -> Ack | Reset | None:
        """Note what the daemon says; hand on an acknowledgement, or a RESET of this session or of its HELLO.

        What is not of the protocol is ignored.
        """
        with contextlib.suppress(MessageError):
            kind, data = message[0], message[-1]
            if kind == ACK:
                ack = parse(Ack, data)
                if ack.session == self.session:
                    self._heard, self.window = time.monotonic(), ack.window
                return ack
            if kind == WELCOME:
                self._welcome(parse(Welcome, data))
            elif kind == PONG and len(message) == 3 and message[1] == self.session:
                self._heard, self.window = time.monotonic(), parse(Pong, data).window
            elif kind == RESET:
                reset = parse(Reset, data)
                return reset if self._reset(reset) else None
        return None

    def fit(self, payload: bytes) -> bytes:
        """Cut a payload that the daemon refuses anyway: it answers `too_large`, where the whole would be cut off."""
        limit = self._max_frame_bytes
        return payload if limit is None or len(payload) <= limit else payload[: limit + 1]

    def _welcome(self, welcome: Welcome) -> None:
        self.session = welcome.session
        self.window = welcome.window
        self._hello_sent = self._hello_at = None
        self._heartbeat_s = welcome.heartbeat_ms / 1000
        self._max_frame_bytes = welcome.max_frame_bytes
        self._heard = self._pinged = time.monotonic()

    def _reset(self, reset: Reset) -> bool:
        # A RESET that answers a message of an earlier session says nothing about this one.
        if reset.session != (self.session or b""):
            return False
        self.lose_session()
        self._hello_at = time.monotonic() + reset.retry_ms / 1000
        return True
