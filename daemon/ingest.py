"""Frames in: one thread owns the push door (PULL), the acked door (ROUTER) and everything that they answer."""

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

import zmq

from daemon.acked import MAX_PARTS, AckedDoor
from daemon.door_socket import OPEN, Access, DoorSocket
from daemon.errors import BindError
from daemon.intake import Acknowledgement, Intake, Moment
from daemon.messages import read_frame
from daemon.push_order import QUIET_MS, PushedFrame, PushOrder
from daemon.sockets import Waker, ZmqContext, ZmqSocket

# Messages that one connection may have waiting inside ZeroMQ; what exceeds it waits in TCP's buffers and at the camera.
# With 1 ZeroMQ's thread stops and starts for each message: at 5 MP a tenth more processor time and less rate.
HIGH_WATER_MARK: Final = 2
# With the one that ZeroMQ has received and can't hand on.
RECEIVED_AHEAD: Final = HIGH_WATER_MARK + 1
# A peer whose message part is larger still is disconnected before the part is received.
OVERSIZE: Final = 1.25
OVERSIZE_BYTES: Final = 64 * 1024
# Messages of one door that are handled before the other gets its turn.
TURN: Final = 32
DRAIN_LIMIT_S: Final = 1.0
# Time that the last acknowledgements have to leave when the doors close.
LINGER_MS: Final = 500


def largest_part(max_frame_bytes: int) -> int:
    """Return the largest part of a message that is received at all."""
    return int(max_frame_bytes * OVERSIZE) + OVERSIZE_BYTES


def most_held_bytes(max_frame_bytes: int) -> int:
    """Return what the push door may hold of frames that came before others of their camera, in bytes.

    As many of the largest as come out of a new connection before the last one of the old connection does.
    """
    return (RECEIVED_AHEAD + 1) * max_frame_bytes


def acks_waiting(max_window: int) -> int:
    """Return how many answers may wait for one sender that doesn't read them."""
    return 4 * max_window + 64


class Ingest:
    """The doors that frames come in by; fulfils `daemon.intake.Doors`.

    push, acked: addresses, "" for a closed door; a port of 0 or * is chosen by the system, and `push_address` and
    `acked_address` tell the real ones. max_window: the largest `intake.window`. `access` is that of both doors.
    max_cameras, max_streams: of which the push door knows how far they have come.
    Raises BindError.
    """

    def __init__(
        self,
        context: ZmqContext,
        intake: Intake,
        *,
        push: str,
        acked: str,
        max_frame_bytes: int,
        max_window: int,
        heartbeat_ms: int,
        max_cameras: int,
        max_streams: int,
        max_sessions: int = 1024,
        access: Access = OPEN,
    ) -> None:
        self.doors: list[DoorSocket] = []
        self.push_address = self.acked_address = ""
        self._intake = intake
        self._max_frame_bytes = max_frame_bytes
        self._heartbeat_ms = heartbeat_ms
        self._push: ZmqSocket | None = None
        self._router: ZmqSocket | None = None
        max_part_bytes = largest_part(max_frame_bytes)
        # What ZeroMQ has received whole and can't hand on, and one more on its way.
        most_unfinished_bytes = (RECEIVED_AHEAD + 1) * max_part_bytes
        if push:
            door = DoorSocket(
                context,
                zmq.PULL,
                push,
                access,
                most_unfinished_bytes=most_unfinished_bytes,
                rcvhwm=HIGH_WATER_MARK,
                maxmsgsize=max_part_bytes,
            )
            self.doors.append(door)
            self._push, self.push_address = door.socket, door.address
        if acked:
            try:
                door = DoorSocket(
                    context,
                    zmq.ROUTER,
                    acked,
                    access,
                    most_unfinished_bytes=most_unfinished_bytes,
                    rcvhwm=HIGH_WATER_MARK,
                    sndhwm=acks_waiting(max_window),
                    maxmsgsize=max_part_bytes,
                    router_handover=1,
                    router_mandatory=1,
                )
            except BindError:
                if self._push is not None:
                    self._push.close()
                raise
            self.doors.append(door)
            self._router, self.acked_address = door.socket, door.address
        self.door = AckedDoor(
            intake,
            self._send,
            max_window=max_window,
            max_sessions=max_sessions,
            heartbeat_ms=heartbeat_ms,
            max_frame_bytes=max_frame_bytes,
        )
        self._order = PushOrder(
            max_cameras=max_cameras, max_streams=max_streams, max_bytes=most_held_bytes(max_frame_bytes)
        )
        self._waker = Waker()
        self._answers: deque[Acknowledgement] = deque()
        self._drain_asked = threading.Event()
        self._drained = threading.Event()
        self._stop_asked = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ingest", daemon=True)

    @property
    def senders(self) -> int:
        """Senders with a live session at the acked door."""
        return self.door.sessions

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def acknowledge(self, answers: Sequence[Acknowledgement]) -> None:
        """Send acknowledgements; those of ended sessions are dropped. Thread-safe, never blocks."""
        self._answers.extend(answers)
        self._waker.wake()

    def reset_all(self, reason: str, retry_ms: int) -> None:
        """End every session with RESET and refuse new ones until `resume`; thread-safe.

        Waits for a hand-over that is under way, so the caller must hold no lock that `Intake.receive` takes.
        """
        self.door.end_all(reason, retry_ms)
        self._waker.wake()

    def resume(self) -> None:
        """Welcome new sessions again; thread-safe."""
        self.door.resume()
        self._waker.wake()

    def wake(self) -> None:
        """Look at `Intake.accepting` and `Intake.window` again, and for doors asked for a new key; thread-safe."""
        self._waker.wake()

    def drain(self) -> None:
        """Take no more frames, once those that ZeroMQ has received from the push door are handed over.

        Acknowledgements go on leaving until `stop`. Blocks for at most about DRAIN_LIMIT_S.
        """
        self._drain_asked.set()
        self._waker.wake()
        if self._thread.is_alive():
            self._drained.wait(2 * DRAIN_LIMIT_S)

    def stop(self) -> None:
        """Send the acknowledgements handed over so far, end every session and close the doors."""
        self._stop_asked.set()
        self._waker.wake()
        if self._thread.ident is not None:
            self._thread.join()
        else:
            self._close()

    def _run(self) -> None:
        try:
            self._serve()
        finally:
            self._close()

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._waker.fileno(), zmq.POLLIN)
        if self._router is not None:
            poller.register(self._router, zmq.POLLIN)
        next_expiry = time.monotonic()
        reading = False
        while not self._stop_asked.is_set():
            if self._drain_asked.is_set() and not self._drained.is_set():
                self._finish_push()
                self.door.drain()
                self._drained.set()
            if self._push is not None and reading != self._may_read():
                reading = not reading
                poller.register(self._push, zmq.POLLIN if reading else 0)
            ready = dict(poller.poll(self._patience_ms(reading)))
            self._waker.clear()
            for door in self.doors:
                door.change_key_if_asked()
            self._send_answers()
            self.door.reset_ended()
            self.door.tell_windows()
            if self._router in ready:
                self._read_router()
            if self._push in ready or self._order.due or self._order.holding:
                self._read_push()
            if time.monotonic() >= next_expiry:
                self.door.expire()
                next_expiry = time.monotonic() + self._heartbeat_ms / 1000
        self._hand_over_held()
        self._send_answers()
        self.door.end_all("shutting_down", self._heartbeat_ms)
        self.door.reset_ended()

    def _patience_ms(self, reading: bool) -> int:
        if not reading:
            return self._heartbeat_ms
        if self._order.due:
            return 0
        return min(QUIET_MS, self._heartbeat_ms) if self._order.holding else self._heartbeat_ms

    def _may_read(self) -> bool:
        return self._intake.accepting and not self._drain_asked.is_set()

    def _read_router(self) -> None:
        for _ in range(TURN):
            received = self.doors[-1].receive(MAX_PARTS)
            if received is None:
                return
            self.door.handle(*received)

    def _read_push(self) -> None:
        for _ in range(TURN):
            if not self._may_read() or not self._read_push_once():
                return

    def _read_push_once(self) -> bool:
        if self._push is None:
            return False
        order = self._order
        if (due := order.next_due()) is not None:
            self._hand_over(due)
            return True
        if order.holding:
            # ZeroMQ takes note now and then of which connections have something again; asked like this it does at once.
            self._push.getsockopt(zmq.EVENTS)
        received = self.doors[0].receive(2)
        if received is None:
            if self.doors[0].passing_over:
                return True
            order.note_empty(time.monotonic_ns())
            return order.due
        parts, count = received
        header, error = read_frame(parts, count, max_frame_bytes=self._max_frame_bytes)
        if header is not None and not order.is_next(header):
            moment = Moment(time.time_ns(), time.monotonic_ns())
            payload = parts[1] if error is None else memoryview(b"")
            order.add(PushedFrame(header, payload, error, moment), moment.monotonic_ns)
        elif header is not None and error is None:
            self._intake.receive(header, parts[1], None)
        elif error is not None:
            self._intake.reject(header, error, None)
        if order.holding:
            order.note_message(time.monotonic_ns())
        return True

    def _hand_over(self, frame: PushedFrame) -> None:
        if frame.error is None:
            self._intake.receive(frame.header, frame.payload, None, frame.received)
        else:
            self._intake.reject(frame.header, frame.error, None, frame.received)

    def _hand_over_held(self) -> None:
        self._order.release_all()
        while (due := self._order.next_due()) is not None:
            self._hand_over(due)

    def _finish_push(self) -> None:
        deadline = time.monotonic() + DRAIN_LIMIT_S
        while time.monotonic() < deadline and self._intake.accepting and self._read_push_once():
            pass
        self._hand_over_held()

    def _send_answers(self) -> None:
        answers: list[Acknowledgement] = []
        while self._answers:
            answers.append(self._answers.popleft())
        self.door.acknowledge(answers)

    def _send(self, parts: list[bytes]) -> bool:
        try:
            if self._router is not None:
                self._router.send_multipart(parts, zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                return False
            raise
        return True

    def _close(self) -> None:
        for door in self.doors:
            door.close(LINGER_MS)
        self._waker.close()
