"""A bank fitted with the sleeping backbone, pictures of parts, and real daemon processes to send them to."""

import json
import os
import queue
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from patchcore_engine.backbones.sleeping import SleepingExtractor
from patchcore_engine.bank_store import activate, save
from patchcore_engine.fit import FitSettings, fit
from patchcore_engine.images import Geometry, encode_png

START_TIMEOUT_S = 120.0
# What Python is told to run, before the configuration's path.
SERVE = ("-m", "daemon.cli", "serve", "--config")
END_S = 10.0


def good_part(seed: int, size: int = 64) -> NDArray[np.uint8]:
    """A plain grey part, uint8 [size, size], with a little noise."""
    return np.random.default_rng(seed).integers(100, 110, (size, size), dtype=np.uint8)


def bad_part(seed: int, size: int = 64) -> NDArray[np.uint8]:
    """A part with a bright blob."""
    part = good_part(seed, size)
    part[size // 4 : size // 2, size // 4 : size // 2] = 250
    return part


def fit_sleeping_bank(
    folder: Path,
    banks: Path,
    recipe: str,
    *,
    seed: int = 0,
    activated: bool = True,
    dimension: int = 8,
    coreset_ratio: float = 0.1,
) -> str:
    """Fit and save a bank with the sleeping backbone; `folder` takes its pictures. Returns its version."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for number in range(24):
        picture = folder / f"{number:03}.png"
        picture.write_bytes(encode_png(good_part(1000 * seed + number)))
        pictures.append(picture)
    geometry = Geometry(resize=64, image_size=64)
    settings = FitSettings(recipe=recipe, geometry=geometry, coreset_ratio=coreset_ratio, seed=seed)
    version = save(fit(pictures, SleepingExtractor(dimension=dimension), settings).bank, banks, recipe).name
    if activated:
        activate(banks, recipe, version)
    return version


@pytest.fixture(scope="session")
def sleeping_banks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of banks with the recipes `caps` and `pins`, made with the sleeping backbone. Not to be changed."""
    folder = tmp_path_factory.mktemp("sleeping")
    for seed, recipe in enumerate(("caps", "pins")):
        fit_sleeping_bank(folder / recipe, folder / "banks", recipe, seed=seed)
    return folder / "banks"


class DaemonProcess:
    """A real `patchline serve`, its log, and the addresses that it bound."""

    def __init__(
        self,
        config: Path,
        environment: dict[str, str] | None = None,
        program: Sequence[str] = SERVE,
        *,
        command: Sequence[str] = (),
        descriptors: int | None = None,
    ) -> None:
        """`command` goes before it. `descriptors`: how many the system allows it, its hard limit."""
        self.config = config
        limits = (descriptors, descriptors) if descriptors is not None else resource.getrlimit(resource.RLIMIT_NOFILE)
        self._process = subprocess.Popen(
            [*command, sys.executable, *program, str(config)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limits),
        )
        self.log: list[dict[str, Any]] = []
        self.other_lines: list[str] = []
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        self.addresses: dict[str, str] = {}

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for(self, event: str, timeout_s: float = START_TIMEOUT_S) -> dict[str, Any]:
        """Return the next log event of this name."""
        while True:
            try:
                entry = self._events.get(timeout=timeout_s)
            except queue.Empty:
                pytest.fail(f"no event {event!r} within {timeout_s} s; the log: {self.log}")
            if entry is None:
                pytest.fail(f"the daemon ended before {event!r}: {self.log} {self.other_lines}")
            if entry["event"] == "bound":
                self.addresses = {door: entry[door] for door in ("push", "acked", "verdicts", "replay", "telemetry")}
            if entry["event"] == event:
                return entry

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, timeout_s: float = 30.0) -> int:
        status = self._process.wait(timeout_s)
        self._reader.join(timeout_s)
        return status

    def stop(self) -> int:
        """Drain with SIGTERM and return the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def end(self) -> None:
        """Stop it if it stops, and kill it if it doesn't; a process that ends by itself tells what of it was tested."""
        if self._process.poll() is None:
            self.signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_S)
        self.kill()

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _read_log(self) -> None:
        if self._process.stderr is None:
            return
        for line in self._process.stderr:
            try:
                entry = json.loads(line)
            except ValueError:
                self.other_lines.append(line)
                continue
            self.log.append(entry)
            self._events.put(entry)
        self._events.put(None)


def write_config(folder: Path, banks: Path, text: str = "", *, recipes: str | None = None) -> Path:
    """Write a configuration with free ports and its state under `folder`; `text` holds further sections.

    A section that `text` begins itself replaces the one of free ports.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sections = {
        "intake": 'push = "tcp://127.0.0.1:*"\nacked = "tcp://127.0.0.1:*"',
        "publish": 'verdicts = "tcp://127.0.0.1:*"\nreplay = "tcp://127.0.0.1:*"',
        "telemetry": 'listen = "127.0.0.1:0"',
        "service": f'state_dir = "{folder / "state"}"',
        "banks": f'dir = "{banks}"',
        "recipes.caps": 'bank = "caps"\ncameras = ["cam1"]',
        "recipes.pins": 'bank = "pins"\ncameras = ["cam2"]',
    }
    if recipes is not None:
        sections = {name: body for name, body in sections.items() if not name.startswith("recipes.")}
        text += recipes
    extra: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("["):
            name = line.strip("[]")
            extra[name] = ""
        elif name:
            extra[name] += line + "\n"
    for name, body in extra.items():
        sections[name] = f"{sections.get(name, '')}\n{body}"
    path = folder / "config.toml"
    path.write_text("".join(f"[{name}]\n{body}\n\n" for name, body in sections.items()), encoding="utf-8")
    return path


@pytest.fixture
def start_daemon(tmp_path: Path, sleeping_banks: Path) -> Iterator[Callable[..., DaemonProcess]]:
    """Start daemons that serve the sleeping banks, ready when returned; they are stopped at the end."""
    running: list[DaemonProcess] = []

    def start(
        text: str = "",
        *,
        config: Path | None = None,
        recipes: str | None = None,
        environment: dict[str, str] | None = None,
        descriptors: int | None = None,
        program: Sequence[str] = SERVE,
    ) -> DaemonProcess:
        path = config or write_config(tmp_path / "daemon", sleeping_banks, text, recipes=recipes)
        process = DaemonProcess(path, environment, program, descriptors=descriptors)
        running.append(process)
        process.wait_for("ready")
        return process

    yield start
    for process in running:
        process.end()
