"""A socket that the daemon binds: who may use it, and how its key changes while it is open."""

import grp
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import zmq

from daemon.errors import BindError
from daemon.sockets import ZmqContext, bind, open_socket

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


class DoorSocket:
    """One bound socket, owned by one thread; others ask that thread for a new key. Raises BindError.

    `most_unfinished_bytes`: what a connection may send before one of its messages is whole (UnfinishedGuard).
    """

    def __init__(
        self,
        context: ZmqContext,
        kind: int,
        address: str,
        access: Access = OPEN,
        *,
        most_unfinished_bytes: int = SMALL_MESSAGES_BYTES,
        **options: int | bytes,
    ) -> None:
        self.most_unfinished_bytes = most_unfinished_bytes
        self.on_tcp = address.startswith("tcp://")
        # The descriptors of TCP connections whose messages came out since `take_heard`; subscriptions aren't noted.
        self.heard: set[int] | None = set() if self.on_tcp else None
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
        heard, self.heard = self.heard or set(), set()
        return heard

    def close(self, linger_ms: int = 0) -> None:
        self.socket.close(linger=linger_ms)

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
