"""Decides who gets in at doors that ask for keys: the handler of ZeroMQ's authentication protocol, ZAP (RFC 27).

ZeroMQ asks it once for each connection, in the middle of the handshake. The doors insist on its answer: when it has
failed nobody gets in, and who was in before stays.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

import structlog
import zmq
from zmq.utils import z85

from daemon.sockets import Waker, ZmqContext

log = structlog.get_logger()

THREAD_NAME: Final = "authenticator"
REFUSALS_LOGGED_S: Final = 10.0

_ADDRESS: Final = "inproc://zeromq.zap.01"
_VERSION: Final = b"1.0"
_GRANTED: Final = b"200", b"OK"
# "Temporary": the peer is told nothing and tries again after HANDSHAKE_MS, so that it comes in once its key is listed.
# After a final refusal, 400, ZeroMQ's sockets give up for good.
_REFUSED: Final = b"300", b"the key is on no list of this door"

# List's name -> peer's name by public key (32 bytes).
AllowLists = Mapping[str, Mapping[bytes, str]]


class Authenticator:
    """Answers on a thread of its own, from `start` to `stop`; bound before any door, so that none opens without it.

    `on_answer(list, granted)` is called for each connection, on that thread. `alive` is False once it has failed.
    """

    def __init__(
        self, context: ZmqContext, lists: AllowLists, on_answer: Callable[[str, bool], object] = lambda _list, _in: None
    ) -> None:
        self._lists = lists
        self._on_answer = on_answer
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0
        self._socket.bind(_ADDRESS)
        self._waker = Waker()
        self._stop_asked = threading.Event()
        self._refusals: Counter[str] = Counter()
        self._logged_at: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def lists(self) -> AllowLists:
        return self._lists

    def start(self) -> None:
        self._thread.start()

    def allow(self, lists: AllowLists) -> None:
        """Replace the lists, for connections made from now on. Thread-safe."""
        self._lists = lists

    def stop(self) -> None:
        self._stop_asked.set()
        self._waker.wake()
        if self._thread.ident is not None:
            self._thread.join()
        self._socket.close(linger=0)
        self._waker.close()

    def _run(self) -> None:
        try:
            poller = zmq.Poller()
            poller.register(self._waker.fileno(), zmq.POLLIN)
            poller.register(self._socket, zmq.POLLIN)
            while not self._stop_asked.is_set():
                ready = dict(poller.poll())
                self._waker.clear()
                if self._socket in ready:
                    self._socket.send_multipart(self._answer(self._socket.recv_multipart()))
        finally:
            # Unbound, it makes ZeroMQ refuse at once; merely silent, it would leave peers waiting.
            self._socket.close(linger=0)

    def _answer(self, request: list[bytes]) -> list[bytes]:
        _version, request_id, domain, address, _identity, mechanism, *credentials = request
        key = credentials[0] if mechanism == b"CURVE" and len(credentials) == 1 else b""
        name = domain.decode("utf-8", "replace")
        granted = key in self._lists.get(name, {})
        self._on_answer(name, granted)
        if not granted:
            self._log_refusal(name, key, address)
        return [_VERSION, request_id, *(_GRANTED if granted else _REFUSED), b"", b""]

    def _log_refusal(self, name: str, key: bytes, address: bytes) -> None:
        self._refusals[name] += 1
        now = time.monotonic()
        if now - self._logged_at.get(name, -REFUSALS_LOGGED_S) < REFUSALS_LOGGED_S:
            return
        self._logged_at[name] = now
        log.warning(
            "peer_refused",
            list=name,
            key=z85.encode(key).decode() if key else "",
            address=address.decode("utf-8", "replace"),
            refusals=self._refusals.pop(name),
            advice=f"If it is one of yours, add this key to the file of security.{name} and reload.",
        )
