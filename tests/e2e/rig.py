"""A whole line of real processes: `patchline serve`, cameras with acked delivery, and a line controller."""

import json
import random
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import zmq

from daemon.client import ClientKeys, FrameSender
from daemon.messages import Verdict
from daemon.stations import JOURNAL_FILE
from tests.daemon.conftest import DaemonProcess, bad_part, good_part, write_config
from tests.daemon.keyring import Keyring
from tests.e2e.account import Account, Part, journal_is_sound, read_journal
from tests.e2e.subscriber import whole_lines

CAMERAS = ("cam1", "cam2")
SUBSCRIBER_FILES = ("subscriber.key", "daemon.pub")
ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 120.0
# Below the range of outgoing ports: a client that waits for a killed daemon can't take its port.
PORTS = range(15_000, 30_000)


def free_addresses(count: int) -> list[str]:
    """Return addresses that stay the same through restarts of the daemon."""
    with zmq.Context() as context:
        probes = [context.socket(zmq.PULL) for _ in range(count)]
        ports = [
            probe.bind_to_random_port("tcp://127.0.0.1", min_port=PORTS.start, max_port=PORTS.stop) for probe in probes
        ]
        for probe in probes:
            probe.close(linger=0)
    return [f"tcp://127.0.0.1:{port}" for port in ports]


class Camera(threading.Thread):
    """Sends a part every `period_s` until stopped; every tenth is a bad one. Notes what it sent and what was acked."""

    def __init__(
        self, address: str, name: str, period_s: float, window: int = 64, keys: ClientKeys | None = None
    ) -> None:
        super().__init__(name=name)
        self.sender = FrameSender(address, name, buffer_frames=window, on_ack=self._note, keys=keys)
        self.acked: list[Verdict] = []
        self._pictures = [*(good_part(n) for n in range(9)), bad_part(9)]
        self._period_s = period_s
        self._stop_asked = threading.Event()

    def run(self) -> None:
        number = 0
        while not self._stop_asked.wait(self._period_s):
            self.sender.send(self._pictures[number % len(self._pictures)], part=f"{self.name}-{number}")
            number += 1

    def finish(self) -> None:
        """Send no more and wait until the last part is acknowledged."""
        self._stop_asked.set()
        self.join(PATIENCE_S)
        assert self.sender.flush(PATIENCE_S), f"{self.sender.pending} parts of {self.name} were never acknowledged"
        self.sender.close()

    @property
    def sent(self) -> set[Part]:
        return {(self.name, self.sender.stream, seq) for seq in range(self.sender.sent)}

    def _note(self, verdict: Verdict) -> None:
        self.acked.append(verdict)


class Subscriber:
    """The line controller's process, with `command` before it. `wait_for` needs `path` to hold whatever it was told."""

    def __init__(
        self, verdicts: str, replay: str, path: Path, keys: Sequence[str] = (), *, command: Sequence[str] = ()
    ) -> None:
        arguments = [verdicts, replay, str(path), *keys]
        self._process = subprocess.Popen(
            [*command, sys.executable, "-W", "error", "-m", "tests.e2e.subscriber", *arguments],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self._told = threading.Condition()
        self._last = -1
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, offset: int) -> None:
        with self._told:
            assert self._told.wait_for(lambda: self._last >= offset, PATIENCE_S), f"told {self._last} of {offset}"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            with suppress(ValueError), self._told:
                self._last = int(line)
                self._told.notify_all()


class Rig:
    """One line below `folder`. `settings`: further sections of config.toml. `keyed`: all doors ask for keys."""

    def __init__(self, folder: Path, banks: Path, *, settings: str, period_s: float, keyed: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        keyring = Keyring(folder / "keys") if keyed else None
        if keyring is not None:
            settings += keyring.section
        self._subscriber_keys = [str(keyring.folder / name) for name in SUBSCRIBER_FILES] if keyring is not None else []
        push, self.acked, self.verdicts, self.replay = free_addresses(4)
        self._config = write_config(folder, banks, settings)
        text = self._config.read_text(encoding="utf-8")
        for key, address in (
            ("push", push),
            ("acked", self.acked),
            ("verdicts", self.verdicts),
            ("replay", self.replay),
        ):
            text = text.replace(f'{key} = "tcp://127.0.0.1:*"', f'{key} = "{address}"')
        self._config.write_text(text, encoding="utf-8")
        self.push = push
        self.journal = folder / "state" / JOURNAL_FILE
        self.told = folder / "told.jsonl"
        self.journal_checks = 0
        self.daemon = DaemonProcess(self._config)
        self._ready = False
        self.subscriber = Subscriber(self.verdicts, self.replay, self.told, self._subscriber_keys)
        keys = keyring.of("camera") if keyring is not None else None
        self.cameras = [Camera(self.acked, name, period_s, keys=keys) for name in CAMERAS]

    def wait_until_ready(self) -> None:
        if not self._ready:
            self.daemon.wait_for("ready")
            self._ready = True

    def start_cameras(self) -> None:
        for camera in self.cameras:
            camera.start()

    def kill_daemon(self) -> None:
        """kill -9, look at what it left on disk, start it again."""
        self.daemon.kill()
        if self.journal.exists():
            assert journal_is_sound(self.journal)
            self.journal_checks += 1
        self.daemon = DaemonProcess(self._config)
        self._ready = False

    def kill_subscriber(self) -> None:
        self.subscriber.kill()
        self.subscriber = Subscriber(self.verdicts, self.replay, self.told, self._subscriber_keys)

    def finish(self) -> Account:
        """Let every part get its verdict, end all processes in order, and return the account."""
        for camera in self.cameras:
            camera.finish()
        verdicts = read_journal(self.journal)
        self.subscriber.wait_for(len(verdicts) - 1)
        self.subscriber.kill()
        assert self.daemon.stop() == 0
        self.daemon.kill()
        assert journal_is_sound(self.journal)
        assert read_journal(self.journal) == verdicts
        self._check_what_was_told(verdicts)
        return Account.of(set().union(*(camera.sent for camera in self.cameras)), verdicts)

    def abandon(self) -> None:
        """Leave no process and no thread behind, whatever happened."""
        for camera in self.cameras:
            camera.sender.close()
        self.subscriber.kill()
        self.daemon.kill()

    def _check_what_was_told(self, verdicts: Sequence[Verdict]) -> None:
        """The controller was told every verdict once and in order, each camera those of its own parts."""
        told = [json.loads(line) for line in whole_lines(self.told)]
        assert told == [[verdict.offset, *verdict.identity, verdict.verdict] for verdict in verdicts]
        for camera in self.cameras:
            assert camera.acked == [verdict for verdict in verdicts if verdict.camera == camera.name]


def pause(seconds: float) -> None:
    threading.Event().wait(seconds)


def random_moment(rig: Rig, rng: random.Random) -> None:
    """Let a random time pass: under load after the daemon is ready, or, one time in five, while it starts."""
    if rng.random() < 0.2:
        pause(rng.uniform(0.0, 1.5))
    else:
        rig.wait_until_ready()
        pause(rng.uniform(0.02, 0.8))
