"""What the daemon's sockets have in common: binding, bounded receiving, and waking a thread that polls."""

import contextlib
import socket
from typing import Final

import zmq

from daemon.errors import BindError, NotRunningError
from daemon.keys import ClientKeys

# A peer that vanished without closing (power cut, pulled cable) is let go after about six seconds of silence. TCP looks
# for it, and not ZeroMQ: libzmq 4.3.5 aborts the process when the connection of a socket breaks whose queue is full and
# whose heartbeats are on.
KEEPALIVE_S: Final = 2
KEEPALIVE_PROBES: Final = 2
UNACKNOWLEDGED_MS: Final = 6000
# A connection that has not said who it is by then is cut, so that mute ones don't pile up; so is one that was refused,
# and tries again.
HANDSHAKE_MS: Final = 10_000
# A connection request that nobody answers is given up and made anew; the kernel would wait for minutes.
CONNECT_TIMEOUT_MS: Final = 3000

ZmqContext = zmq.Context[zmq.Socket[bytes]]
ZmqSocket = zmq.Socket[bytes]


def open_socket(context: ZmqContext, kind: int, **options: int | bytes) -> ZmqSocket:
    """Return a socket that lets vanished peers go and holds nothing back at close, with further `options` set."""
    opened = context.socket(kind)
    opened.linger = 0
    opened.setsockopt(zmq.TCP_KEEPALIVE, 1)
    opened.setsockopt(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_S)
    opened.setsockopt(zmq.TCP_KEEPALIVE_INTVL, KEEPALIVE_S)
    opened.setsockopt(zmq.TCP_KEEPALIVE_CNT, KEEPALIVE_PROBES)
    opened.setsockopt(zmq.TCP_MAXRT, UNACKNOWLEDGED_MS)
    opened.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    opened.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_TIMEOUT_MS)
    for name, value in options.items():
        opened.setsockopt(getattr(zmq, name.upper()), value)
    return opened


def bind(opened: ZmqSocket, address: str) -> str:
    """Bind and return the real address; port 0 or * lets the system choose one. Raises BindError."""
    any_port = address.startswith("tcp://") and address.endswith(":0")
    try:
        opened.bind(address[:-1] + "*" if any_port else address)
    except zmq.ZMQError as error:
        opened.close(linger=0)
        raise BindError(
            f"{address} can't be bound: {error.strerror}. Choose another address, or stop what uses this one."
        ) from error
    return str(opened.getsockopt_string(zmq.LAST_ENDPOINT)).rstrip("\0")


def connect(opened: ZmqSocket, address: str, keys: ClientKeys | None = None) -> None:
    """Connect, now or whenever a peer is there; with `keys` encrypted, and only to the daemon whose key is theirs.

    Raises NotRunningError for what is no address of a peer.
    """
    if keys is not None:
        opened.curve_serverkey = keys.server
        opened.curve_publickey, opened.curve_secretkey = keys.own.public, keys.own.secret
    try:
        opened.connect(address)
    except zmq.ZMQError as error:
        opened.close(linger=0)
        raise NotRunningError(
            f"{address!r} is no address to connect to: {error.strerror}. Give one like tcp://HOST:PORT or ipc://PATH."
        ) from error


def connection_of(frame: zmq.Frame) -> int | None:
    """Return the descriptor of the connection that a frame came by; None where ZeroMQ has noted none.

    It notes none for a peer that is gone already when its connection is accepted, and none in ZMTP 1.0 and 2.0.
    """
    try:
        return int(frame.get(zmq.SRCFD))
    except zmq.ZMQError:
        # Of any number: ZeroMQ sets none in this case.
        return None


class Waker:
    """Wakes one polling thread from any other. `fileno` is what that thread polls for reading."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        return self._reader.fileno()

    def wake(self) -> None:
        """Wake the polling thread; a no-op when it is being woken already, or when the waker is closed."""
        with contextlib.suppress(OSError):
            self._writer.send(b"\0")

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._reader.recv(4096):
                pass

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
