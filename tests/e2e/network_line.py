"""A line over a network of two hosts: the daemon on one, cameras and a line controller on the other."""

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from daemon.config import load_settings
from daemon.journal_file import JOURNAL_FILE
from tests.daemon.conftest import DaemonProcess, write_config
from tests.daemon.serving import until
from tests.e2e.account import Account, Part, read_journal
from tests.e2e.chaos import sleeping_settings
from tests.e2e.namespaces import ADDRESSES, Network
from tests.e2e.rig import CAMERAS, PATIENCE_S, ROOT, Subscriber
from tests.e2e.subscriber import whole_lines

PERIOD_S = 0.02
READ_METRICS = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())"


class RemoteCamera:
    """The process of `tests.e2e.acked_camera` on a host; `command` goes before it."""

    def __init__(self, command: Sequence[str], address: str, name: str) -> None:
        self.name = name
        self.report: dict[str, Any] = {}
        self._process = subprocess.Popen(
            [*command, sys.executable, "-m", "tests.e2e.acked_camera", address, name, str(PERIOD_S)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self._changed = threading.Condition()
        self._acked = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for_acknowledgements(self, count: int) -> None:
        """Wait for so many more."""
        with self._changed:
            wanted = self._acked + count
            assert self._changed.wait_for(lambda: self._acked >= wanted, PATIENCE_S), f"{self._acked} of {wanted}"

    def finish(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        assert self._process.wait(PATIENCE_S) == 0, f"parts of {self.name} were never acknowledged"
        self._reader.join(PATIENCE_S)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(PATIENCE_S)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()

    @property
    def sent(self) -> set[Part]:
        return {(self.name, self.report["stream"], seq) for seq in range(self.report["sent"])}

    def _read(self) -> None:
        for line in self._process.stdout or ():
            with self._changed:
                if line.startswith("{"):
                    self.report = json.loads(line)
                else:
                    self._acked = int(line)
                self._changed.notify_all()


class NetworkLine:
    """Runs while entered. What is on the field's host reaches the daemon through `network` alone."""

    def __init__(self, folder: Path, banks: Path, network: Network) -> None:
        self._network = network
        config = write_config(folder, banks, sleeping_settings())
        text = config.read_text(encoding="utf-8").replace("tcp://127.0.0.1:*", f"tcp://{ADDRESSES['line']}:*")
        config.write_text(text, encoding="utf-8")
        self._journal = load_settings(config).journal_dir / JOURNAL_FILE
        self._told = folder / "told.jsonl"
        self.daemon = DaemonProcess(config, command=network.host("line"))

    def __enter__(self) -> Self:
        try:
            self.daemon.wait_for("ready")
        except BaseException:
            self.daemon.kill()
            raise
        doors, field = self.daemon.addresses, self._network.host("field")
        self.subscriber = Subscriber(doors["verdicts"], doors["replay"], self._told, command=field)
        self.cameras = [RemoteCamera(field, doors["acked"], name) for name in CAMERAS]
        return self

    def __exit__(self, _kind: object, _error: object, _trace: TracebackType | None) -> None:
        for camera in self.cameras:
            camera.kill()
        self.subscriber.kill()
        self.daemon.kill()

    def work(self, parts: int = 20) -> None:
        """Wait until each camera has had so many more parts acknowledged."""
        for camera in self.cameras:
            camera.wait_for_acknowledgements(parts)

    def wait_until_cut_off(self) -> None:
        """Wait until the daemon has given up every camera, and its host every connection."""
        until(lambda: self._metric("patchline_acked_senders") == 0, PATIENCE_S)
        until(lambda: self._network.connections("line") == 0, PATIENCE_S)

    def finish(self) -> Account:
        """Let every part have its verdict, and the controller be told it; return the account."""
        for camera in self.cameras:
            camera.finish()
        verdicts = read_journal(self._journal)
        self.subscriber.wait_for(len(verdicts) - 1)
        assert self.daemon.stop() == 0, (self.daemon.log[-5:], self.daemon.other_lines)
        told = [json.loads(line) for line in whole_lines(self._told)]
        assert told == [[verdict.offset, *verdict.identity, verdict.verdict] for verdict in verdicts]
        for camera in self.cameras:
            acked = [[verdict.seq, verdict.offset] for verdict in verdicts if verdict.camera == camera.name]
            assert camera.report["acked"] == acked, f"{camera.name} was acknowledged otherwise"
        return Account.of(set().union(*(camera.sent for camera in self.cameras)), verdicts)

    @property
    def resent(self) -> int:
        return sum(camera.report["resent"] for camera in self.cameras)

    def _metric(self, name: str) -> float:
        url = f"http://{self.daemon.addresses['telemetry']}/metrics"
        command = [*self._network.host("line"), sys.executable, "-c", READ_METRICS, url]
        page = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S).stdout
        return next(float(line.split()[1]) for line in page.splitlines() if line.startswith(f"{name} "))
