"""Tells systemd how the service is: sd_notify(3), without its library."""

import contextlib
import os
import socket
import time
from collections.abc import Mapping
from typing import Final

# After the drain: the last verdicts are journalled and published, sockets and journal closed.
STOP_MARGIN_S: Final = 20.0


class Notifier:
    """Sends to the socket that NOTIFY_SOCKET names, a path or `@` and an abstract name; without one it does nothing."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        usec = environment.get("WATCHDOG_USEC", "")
        mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(usec) / 1e6 if usec.isdecimal() and mine else None

    def send(self, **fields: str) -> None:
        """Send fields such as READY="1". A systemd that doesn't listen is no reason to stop."""
        if not self._address:
            return
        # A line break inside a value would begin another field.
        message = "\n".join(f"{name}={' '.join(value.splitlines())}" for name, value in fields.items()).encode()
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(message, self._address)

    def ready(self, status: str) -> None:
        self.send(READY="1", STATUS=status)

    def reloading(self) -> None:
        """The clock is CLOCK_MONOTONIC in microseconds, as Type=notify-reload asks."""
        self.send(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000), STATUS="Reloading")

    def stopping(self, limit_s: float = 0.0) -> None:
        """Say that the drain begins, which takes `limit_s` at most.

        systemd's watchdog stays armed during it and nobody feeds it: both time limits of the stop are put off.
        """
        limit_us = str(int((limit_s + STOP_MARGIN_S) * 1e6))
        self.send(STOPPING="1", STATUS="Finishing what waits", EXTEND_TIMEOUT_USEC=limit_us, WATCHDOG_USEC=limit_us)

    def status(self, text: str) -> None:
        self.send(STATUS=text)

    def alive(self) -> None:
        """Feed the watchdog."""
        self.send(WATCHDOG="1")
