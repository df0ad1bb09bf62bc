"""A shift's traffic: cameras of both doors that come and go, and frames as broken cameras send them."""

import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import msgpack
import numpy as np
import zmq
from numpy.typing import NDArray

from daemon.client import FrameSender, PushCamera
from daemon.outcomes import Reason
from tests.daemon.conftest import bad_part, good_part
from tests.e2e.account import Part

PATIENCE_S = 120.0
PICTURES = 10
# Frames of one connection at the acked door that may wait here for their acknowledgement.
BUFFER_FRAMES = 256


class Shift:
    """Calls `step` every `period_s` on a thread of `pool`, without drifting, until it is stopped."""

    def __init__(self, name: str, period_s: float) -> None:
        self.name = name
        self._period_s = period_s
        self._stop_asked = threading.Event()
        self._end: Future[None] | None = None

    def step(self, number: int) -> None:
        raise NotImplementedError

    def leave(self) -> None:
        """Let what is under way arrive, and close."""

    def start(self, pool: ThreadPoolExecutor) -> None:
        self._end = pool.submit(self._run)

    def stop(self) -> None:
        self._stop_asked.set()

    def finish(self) -> None:
        """Stop and wait for the end. Raises what `step` or `leave` raised."""
        self.stop()
        if self._end is not None:
            self._end.result(2 * PATIENCE_S)

    def _run(self) -> None:
        begin = time.monotonic()
        for number in itertools.count():
            if self._stop_asked.wait(max(begin + number * self._period_s - time.monotonic(), 0)):
                break
            self.step(number)
        self.leave()


class Camera(Shift):
    """A camera that connects anew, as another stream, every `reconnect_s`."""

    def __init__(self, address: str, name: str, period_s: float, reconnect_s: float) -> None:
        super().__init__(name, period_s)
        self._address = address
        self._pictures: list[NDArray[np.uint8]] = [*(good_part(n) for n in range(PICTURES - 1)), bad_part(9)]
        self._per_connection = max(round(reconnect_s / period_s), 1)
        self.sent: set[Part] = set()
        self.reconnects = self.resent = 0

    def step(self, number: int) -> None:
        if number and not number % self._per_connection:
            self.leave()
            self.connect()
            self.reconnects += 1
        self.send(self._pictures[number % PICTURES])

    def connect(self) -> None:
        raise NotImplementedError

    def send(self, picture: NDArray[np.uint8]) -> None:
        raise NotImplementedError


class AckedCamera(Camera):
    def __init__(self, address: str, name: str, period_s: float, reconnect_s: float) -> None:
        super().__init__(address, name, period_s, reconnect_s)
        self.connect()

    def connect(self) -> None:
        self._sender = FrameSender(self._address, self.name, buffer_frames=BUFFER_FRAMES)

    def send(self, picture: NDArray[np.uint8]) -> None:
        self.sent.add((self.name, self._sender.stream, self._sender.send(picture)))

    def leave(self) -> None:
        if not self._sender.flush(PATIENCE_S):
            raise TimeoutError(f"{self._sender.pending} parts of {self.name} were never acknowledged")
        self.resent += self._sender.resent
        self._sender.close()


class PushedCamera(Camera):
    def __init__(self, address: str, name: str, period_s: float, reconnect_s: float) -> None:
        super().__init__(address, name, period_s, reconnect_s)
        self.connect()

    def connect(self) -> None:
        self._camera = PushCamera(self._address, self.name, timeout_s=PATIENCE_S)

    def send(self, picture: NDArray[np.uint8]) -> None:
        self.sent.add((self.name, self._camera.stream, self._camera.send(picture)))

    def leave(self) -> None:
        self._camera.close(PATIENCE_S)


class BrokenCamera(Shift):
    """Sends frames at the push door that can't be inspected, each kind in turn; notes what must be said of each."""

    def __init__(self, address: str, name: str, period_s: float) -> None:
        super().__init__(name, period_s)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.linger = int(PATIENCE_S * 1000)
        self._socket.connect(address)
        self._stream = int.from_bytes(os.urandom(8), "big")
        self._random = np.random.default_rng(0)
        self._kinds: Sequence[tuple[Reason, Callable[[dict[str, object]], list[bytes]]]] = (
            (Reason.UNDECODABLE, lambda header: [msgpack.packb(header), b"\x89PNG\r\n\x1a\n" + self._noise(500)]),
            (Reason.BAD_GEOMETRY, lambda h: [msgpack.packb({**h, "encoding": "raw", "shape": [64, 64]}), b"short"]),
            (Reason.UNKNOWN_RECIPE, lambda header: [msgpack.packb({**header, "recipe": "nowhere"}), b"\0" * 100]),
            (Reason.MALFORMED, lambda header: [msgpack.packb({**header, "bits": "twelve"}), b"\0" * 100]),
            (Reason.MALFORMED, lambda header: [msgpack.packb(header)]),
        )
        self.sent: set[Part] = set()
        self.nameless = 0
        self.expected: Counter[str] = Counter()

    def step(self, number: int) -> None:
        kind, turn = number % (len(self._kinds) + 1), number // (len(self._kinds) + 1)
        if kind == len(self._kinds):
            self._socket.send_multipart([self._noise(40), self._noise(40)])
            self.nameless += 1
            self.expected[Reason.MALFORMED] += 1
            return
        seq = turn * len(self._kinds) + kind
        header = {"v": 1, "camera": self.name, "stream": self._stream, "seq": seq, "captured_ns": 0, "encoding": "png"}
        reason, frame = self._kinds[kind]
        self._socket.send_multipart(frame(header))
        self.sent.add((self.name, self._stream, seq))
        self.expected[reason] += 1

    def leave(self) -> None:
        self._socket.close()
        self._context.term()

    def _noise(self, size: int) -> bytes:
        return b"\xc1" + self._random.bytes(size)
