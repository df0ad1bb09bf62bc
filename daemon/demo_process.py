"""The processes of the demos: the real daemon, the real commands, all ended when the demo ends, however it ends."""

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Final

from daemon.endpoints import running_addresses
from daemon.errors import NotRunningError

PATCHLINE: Final = (sys.executable, "-c", "from daemon.cli import main; main()")
START_TIMEOUT_S: Final = 180.0
_STOP_TIMEOUT_S: Final = 30.0


class DemoDaemon:
    """`patchline serve` as a child process, started and watched over as systemd would."""

    def __init__(self, config: Path, state_dir: Path, log: Path) -> None:
        self._config = config
        self._state_dir = state_dir
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    @property
    def addresses(self) -> dict[str, str]:
        return running_addresses(self._state_dir)

    def start(self) -> float:
        """Start the daemon, wait until it says READY=1, and return the seconds that took. Raises NotRunningError."""
        started = time.monotonic()
        with (
            tempfile.TemporaryDirectory(prefix="patchline-") as folder,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify,
        ):
            path = f"{folder}/notify"
            notify.bind(path)
            with self._log.open("ab") as log:
                self._process = start_command(["serve", "--config", str(self._config)], log, NOTIFY_SOCKET=path)
            self.starts += 1
            self._wait_ready(notify, started + START_TIMEOUT_S)
        return time.monotonic() - started

    def _wait_ready(self, notify: socket.socket, deadline: float) -> None:
        process = self._running()
        death = os.pidfd_open(process.pid)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(notify, selectors.EVENT_READ)
                selector.register(death, selectors.EVENT_READ)
                while (left := deadline - time.monotonic()) > 0:
                    events = {key.fileobj for key, _ in selector.select(left)}
                    if notify in events and b"READY=1" in notify.recv(4096).split(b"\n"):
                        return
                    if death in events:
                        raise NotRunningError(f"The daemon ended while it started; {self._log} says why.")
        finally:
            os.close(death)
        self.stop()
        raise NotRunningError(f"The daemon was not ready within {START_TIMEOUT_S:.0f} s; {self._log} may say why.")

    def reload(self) -> None:
        self._running().send_signal(signal.SIGHUP)

    def kill(self) -> None:
        """kill -9."""
        process = self._running()
        process.kill()
        process.wait()
        self._process = None

    def stop(self) -> int | None:
        """Let the daemon drain and return its exit status; None if it wasn't running."""
        if self._process is None:
            return None
        process, self._process = self._process, None
        return end(process)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise NotRunningError("The demo's daemon isn't running.")
        return self._process


def start_command(arguments: list[str], log: IO[bytes] | None = None, **environment: str) -> subprocess.Popen[bytes]:
    """Start `patchline ARGUMENTS`; its output goes to `log`, or to this process's own.

    With a log it gets a session of its own: Ctrl-C on the terminal then leaves it to the demo to end it.
    """
    return subprocess.Popen(  # noqa: S603  # nosec B603  # (our own commands)
        [*PATCHLINE, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env={**os.environ, **environment},
        start_new_session=log is not None,
    )


def end(process: subprocess.Popen[bytes]) -> int:
    """Ask a process to end, wait, and kill it if it doesn't."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
    try:
        return process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def free_address() -> str:
    """Return a TCP address on the loopback interface whose port nothing uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def command_name() -> str:
    """Return how a person in the current folder calls patchline: by name where PATH has it, else by its path."""
    beside = Path(sys.executable).parent / "patchline"
    on_path = [Path(folder) / "patchline" for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    if any(path.exists() for path in on_path) or not beside.exists():
        return "patchline"
    return os.path.relpath(beside)
