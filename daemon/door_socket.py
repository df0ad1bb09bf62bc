"""A socket that the daemon binds: who may use it, and how its key changes while it is open."""

import grp
import os
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, Final

import zmq

from daemon.descriptors import borrowed, cut_off
from daemon.errors import BindError
from daemon.sockets import ZmqContext, bind, connection_of, open_socket

REBIND_MS: Final = 5000
# With a domain, which the authenticator is asked about, ZeroMQ turns peers of ZMTP 1.0 and 2.0 away in the greeting: it
# notes nothing of their connections, so that one that misbehaves could be neither counted nor cut. Without an
# authenticator all others come in.
NO_LIST: Final = "open"
_IPC: Final = "ipc://"


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """Who may connect. `ipc_mode` and `ipc_group` ("": unchanged) are those of an ipc socket's file.

    `secret_key`: the daemon's, Z85; with it peers must encrypt, and be on the authenticator's list `allow_list`.
    """

    ipc_mode: int = 0o600
    ipc_group: str = ""
    allow_list: str = ""
    secret_key: bytes | None = field(default=None, repr=False)


OPEN: Final = Access()
# Requests and subscriptions of one connection: 4 KiB at most each, 1,000 may wait.
SMALL_MESSAGES_BYTES: Final = 8 * 2**20
# The longest message of ours has five parts; whoever sends more than these is cut.
MOST_PARTS: Final = 64
# Further parts of such a message, a microsecond each, that one call passes over.
PASSED_OVER: Final = 1000


class DoorSocket:
    """One bound socket, owned by one thread; others ask that thread for a new key. Raises BindError.

    `most_unfinished_bytes`: what a connection may send before one of its messages is whole, `most_unfinished_together`:
    what all may (UnfinishedGuard).
    """

    def __init__(
        self,
        context: ZmqContext,
        kind: int,
        address: str,
        access: Access = OPEN,
        *,
        most_unfinished_bytes: int = SMALL_MESSAGES_BYTES,
        most_unfinished_together: float = inf,
        **options: int | bytes,
    ) -> None:
        self.most_unfinished_bytes = most_unfinished_bytes
        self.most_unfinished_together = most_unfinished_together
        self.on_tcp = address.startswith("tcp://")
        # The descriptors of connections whose messages came out since `take_heard`. Subscriptions aren't noted: ZeroMQ
        # keeps them.
        self.heard: set[int] = set()
        # Whether parts wait of a message that has been handed on as one of too many.
        self.passing_over = False
        self._cut: list[str] = []
        self.socket = open_socket(context, kind, zap_domain=NO_LIST.encode(), **options)
        self._access = access
        self._asked: tuple[bytes, threading.Event] | None = None
        self._apply_key(access.secret_key)
        self.address = bind(self.socket, address)
        self._guard_file()

    def ask_for_key(self, secret_key: bytes) -> threading.Event:
        """Ask for a new listener with `secret_key`, also the present one; the event tells when it is there.

        Every connection ends by it, those included whose keys are on no list any more.
        """
        done = threading.Event()
        self._asked = secret_key, done
        return done

    def change_key_if_asked(self) -> None:
        """Do what was asked for. Called by the socket's thread, often. What was received stays readable."""
        asked = self._asked
        if asked is None:
            return
        secret_key, done = asked
        self._rebind(secret_key)
        if self._asked is asked:
            self._asked = None
        done.set()

    def take_heard(self) -> set[int]:
        """Return the descriptors of connections that a message came from since the last call; any thread."""
        heard, self.heard = self.heard, set()
        return heard

    def take_cut(self) -> list[str]:
        """Return the peers whose connections were cut for the number of their parts since the last call; any thread."""
        cut, self._cut = self._cut, []
        return cut

    def receive(self, limit: int) -> tuple[list[memoryview], int] | None:
        """Receive one message without waiting and without copying its parts.

        Returns its first `limit` parts as views into the received buffers, and the number of all its parts, or
        MOST_PARTS + 1: then its connection is cut and later calls pass over the rest. None when no message waits, or
        while that takes more than one call.
        """
        parts: list[memoryview] = []
        count = 0
        try:
            if self.passing_over and not self._pass_over():
                return None
            more = True
            while more and count <= MOST_PARTS:
                frame: Any = self.socket.recv(zmq.NOBLOCK, copy=False)
                if count < limit:
                    parts.append(frame.buffer)
                count += 1
                more = frame.more
        except zmq.Again:
            return None
        if (connection := connection_of(frame)) is not None:
            self.heard.add(connection)
        if more:
            self.passing_over = True
            self._cut_connection(frame)
        return parts, count

    def close(self, linger_ms: int = 0) -> None:
        self.socket.close(linger=linger_ms)

    def _pass_over(self) -> bool:
        """Drop parts of the message under way; return whether it has ended."""
        for _ in range(PASSED_OVER):
            if not self.socket.recv(zmq.NOBLOCK, copy=False).more:
                self.passing_over = False
                return True
        return False

    def _cut_connection(self, frame: zmq.Frame) -> None:
        connection = connection_of(frame)
        if connection is None or not self.on_tcp:
            return
        # OSError: it has ended by itself. What has its descriptor now is left alone, unless it is the same peer's.
        with suppress(OSError), borrowed(connection) as candidate:
            if candidate.family == socket.AF_INET and candidate.getsockname()[1] == int(
                self.address.rpartition(":")[2]
            ):
                peer = candidate.getpeername()[0]
                if peer == frame.get("Peer-Address"):
                    cut_off(candidate)
                    self._cut.append(peer)

    def _rebind(self, secret_key: bytes) -> None:
        # Only a closed listener gives its address back, and ZeroMQ closes it on a thread of its own.
        monitor = self.socket.get_monitor_socket(zmq.EVENT_CLOSED)
        try:
            self.socket.unbind(self.address)
            monitor.poll(REBIND_MS)
        finally:
            self.socket.disable_monitor()
            monitor.close(linger=0)
        self._apply_key(secret_key)
        bind(self.socket, self.address)
        self._guard_file()

    def _apply_key(self, secret_key: bytes | None) -> None:
        """Set what the next listener asks of its peers."""
        if secret_key is None:
            return
        self.socket.curve_server = 1
        self.socket.curve_secretkey = secret_key
        self.socket.zap_domain = self._access.allow_list.encode()
        # Without this a door whose authenticator is gone lets everybody in.
        self.socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def _guard_file(self) -> None:
        # An address that begins with @ is in Linux's abstract namespace: no file, so no mode.
        if not self.address.startswith(_IPC) or self.address.startswith(f"{_IPC}@"):
            return
        path = Path(self.address.removeprefix(_IPC))
        try:
            if self._access.ipc_group:
                os.chown(path, -1, grp.getgrnam(self._access.ipc_group).gr_gid)
            path.chmod(self._access.ipc_mode)
        except KeyError:
            self.close()
            raise BindError(f"security.ipc_group = {self._access.ipc_group!r}: this host has no such group.") from None
        except OSError as error:
            self.close()
            raise BindError(
                f"{path} can't be given mode {self._access.ipc_mode:o} and group {self._access.ipc_group!r}: "
                f"{error.strerror}. The daemon's user must be a member of the group."
            ) from error
