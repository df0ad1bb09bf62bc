"""A daemon's state folder: its process id under a lock, and the addresses that it bound."""

import fcntl
import json
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from daemon.endpoints import ADDRESSES_FILE
from daemon.errors import ConfigError, NotRunningError

PID_FILE: Final = "daemon.pid"


class StateFolder:
    """Holds `folder` for this process until it is closed, so that no second daemon shares it. Raises ConfigError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = (folder / PID_FILE).open("a+", encoding="ascii")
        except OSError as error:
            raise ConfigError(f"service.state_dir = {folder} can't be used: {error.strerror}.") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise ConfigError(
                f"service.state_dir = {folder} is used by another daemon: give this one a folder of its own."
            ) from error
        try:
            self._lock.truncate(0)
            self._lock.write(f"{os.getpid()}\n")
            self._lock.flush()
        except OSError as error:
            # Closing tries to write again, and closes all the same.
            with suppress(OSError):
                self._lock.close()
            raise self._unwritable(error) from error

    def write_addresses(self, addresses: Mapping[str, str]) -> None:
        """Tell clients on this host where the doors are; the file is there whole or not at all. Raises ConfigError."""
        partial = self._folder / f"{ADDRESSES_FILE}.partial"
        try:
            partial.write_text(json.dumps(addresses, indent=2) + "\n", encoding="utf-8")
            partial.replace(self._folder / ADDRESSES_FILE)
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        # A disk that failed meanwhile keeps nobody from stopping.
        with suppress(OSError):
            (self._folder / ADDRESSES_FILE).unlink(missing_ok=True)
        with suppress(OSError):
            self._lock.truncate(0)
        with suppress(OSError):
            self._lock.close()

    def _unwritable(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"service.state_dir = {self._folder} can't be written: {error.strerror}. Make room there, or name another."
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self.close()


def signal_reload(folder: Path) -> int:
    """Ask the daemon with this state folder to reload; return its process id. Raises NotRunningError."""
    try:
        with (folder / PID_FILE).open(encoding="ascii") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = int(file.read())
                os.kill(pid, signal.SIGHUP)
                return pid
    except (OSError, ValueError) as error:
        raise NotRunningError(f"The daemon of {folder} can't be told to reload: {error}.") from error
    raise NotRunningError(f"No daemon runs with {folder} as its state folder: the bank serves from its next start.")
