"""A real daemon with a bank made for it, the cameras that feed it and a subscriber that notes what comes out."""

import contextlib
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgpack
import psutil
import zmq

from daemon.demo_process import DemoDaemon
from daemon.keys import ClientKeys
from daemon.sockets import connect
from patchcore_engine.backbones.extractor import FeatureExtractor
from patchcore_engine.bank_store import activate, save
from patchcore_engine.fit import FitSettings, fit
from patchcore_engine.images import Geometry, encode_png
from tests.benchmarks.child import ROOT
from tests.benchmarks.figures import peak_rss_bytes
from tests.benchmarks.load import pictures
from tests.daemon.keyring import Keyring

RECIPE: Final = "bench"
# With nothing heard for this long a run has failed.
SILENCE_MS: Final = 30_000
CALIBRATION_PICTURES: Final = 32
# Of each run, the part in which queues fill and caches warm up.
WARM_UP_SHARE: Final = 0.2


def fit_bank(banks: Path, extractor: FeatureExtractor, geometry: Geometry, vectors: int) -> Path:
    """Fit a bank of about `vectors` to plain parts as the cameras send them; return the recipe's folder."""
    patches = extractor.grid[0] * extractor.grid[1]
    count = max(CALIBRATION_PICTURES, -(-vectors // patches))
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number, picture in enumerate(pictures(1024, 1024)[:-1] * (count // 9 + 1)):
            path = Path(folder) / f"{number}.png"
            path.write_bytes(encode_png(picture[number : number + 512, number : number + 512]))
            paths.append(path)
        paths = paths[:count]
        ratio = min(vectors / (count * patches), 1.0)
        bank = fit(paths, extractor, FitSettings(recipe=RECIPE, geometry=geometry, coreset_ratio=ratio)).bank
        activate(banks, RECIPE, save(bank, banks, RECIPE).name)
    return banks / RECIPE


@dataclass(frozen=True, slots=True)
class Heard:
    """One verdict: the map, when the subscriber had it, and when it had its heat map, Unix nanoseconds."""

    verdict: dict[str, Any]
    received_ns: int
    heatmap_ns: int | None


class LiveDaemon:
    """`patchline serve` in its own process with sockets and state below a folder of its own.

    `tcp`: over the loopback interface instead of ipc. `keyed`: its doors ask for keys, and everything is encrypted.
    """

    def __init__(
        self,
        bank: Path,
        *,
        engine: str = "",
        queue: str = "",
        cameras: int = 64,
        tcp: bool = False,
        keyed: bool = False,
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="patchline-bench-"))
        self.push, self._verdicts = (
            "tcp://127.0.0.1:*" if tcp else f"ipc://{self._folder}/{door}" for door in ("push", "verdicts")
        )
        self._keyring = Keyring(self._folder / "keys") if keyed else None
        config = self._folder / "config.toml"
        config.write_text(
            f'[engine]\n{engine}\n[queue]\n{queue}\n[banks]\ndir = "{bank.parent}"\n'
            f'[intake]\npush = "{self.push}"\nacked = ""\nmax_cameras = {cameras}\n'
            f'[publish]\nverdicts = "{self._verdicts}"\nreplay = ""\nhigh_water_mark = 10000\n'
            f'[telemetry]\nlisten = "127.0.0.1:0"\n[service]\nstate_dir = "{self._folder / "state"}"\n'
            f'log_level = "warning"\n[recipes.{RECIPE}]\nbank = "{bank.name}"\ncameras = ["*"]\n'
            + (self._keyring.section if self._keyring is not None else ""),
            encoding="utf-8",
        )
        self._daemon = DemoDaemon(config, self._folder / "state", self._folder / "log")
        self.ready_s = self._daemon.start()
        self.push, self._verdicts = (self._daemon.addresses[door] for door in ("push", "verdicts"))

    @property
    def pid(self) -> int:
        return int((self._folder / "state" / "daemon.pid").read_text())

    @property
    def peak_rss_bytes(self) -> int:
        return peak_rss_bytes(self.pid)

    @property
    def processor_s(self) -> float:
        """Processor time that the daemon has taken so far, all threads, kernel included."""
        times = psutil.Process(self.pid).cpu_times()
        return times.user + times.system

    def run(self, *, frames: int, height: int, width: int, cameras: int = 1, rate: float = 0.0) -> list[Heard]:
        """Push `frames` and return what was heard of them, in the order it came."""
        stream = secrets.randbits(63)
        keyring = self._keyring
        keys = keyring.of("subscriber") if keyring is not None else None
        key_files = [str(keyring.folder / name) for name in ("camera.key", "daemon.pub")] if keyring is not None else []
        self._wait_for_subscribers(0)
        with _subscribed(self._verdicts, keys) as subscriber:
            self._wait_for_subscribers(1)
            load = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.benchmarks.load", self.push, "--frames", str(frames)),
                    *("--cameras", str(cameras), "--rate", str(rate), "--stream", str(stream)),
                    *("--height", str(height), "--width", str(width)),
                    *(("--keys", *key_files) if key_files else ()),
                ],
                cwd=ROOT,
            )
            try:
                return _collect(subscriber, stream, frames)
            finally:
                load.wait()

    def _wait_for_subscribers(self, count: int) -> None:
        """A subscription has no answer, and the daemon takes its time to see that one has ended."""
        page = f"http://{self._daemon.addresses['telemetry']}/metrics"
        deadline = time.monotonic() + SILENCE_MS / 1000
        while time.monotonic() < deadline:
            with urllib.request.urlopen(page, timeout=SILENCE_MS / 1000) as answer:
                if f"patchline_subscribers {count}.0\n" in answer.read().decode():
                    return
            time.sleep(0.05)
        raise SystemExit(f"The daemon never had {count} subscriber(s).")

    def close(self) -> None:
        self._daemon.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, _error: object, _trace: TracebackType | None) -> None:
        self.close()


@contextlib.contextmanager
def _subscribed(address: str, keys: ClientKeys | None = None) -> "Iterator[zmq.Socket[bytes]]":
    with zmq.Context() as context:
        subscriber = context.socket(zmq.SUB)
        subscriber.rcvhwm = 0
        subscriber.rcvtimeo = SILENCE_MS
        subscriber.linger = 0
        subscriber.subscribe(b"verdict/")
        subscriber.subscribe(b"heatmap/")
        connect(subscriber, address, keys)
        yield subscriber
        subscriber.close()


def _collect(subscriber: "zmq.Socket[bytes]", stream: int, frames: int) -> list[Heard]:
    messages = []
    verdicts = heatmaps = 0
    while verdicts < frames or heatmaps < frames:
        parts = subscriber.recv_multipart()
        messages.append((time.time_ns(), parts[0][:8], parts[1]))
        if parts[0].startswith(b"verdict/"):
            verdicts += 1
            # One that was not inspected has no heat map.
            heatmaps += b"not_inspected" in parts[1]
        else:
            heatmaps += 1
    seen: dict[tuple[str, int], tuple[dict[str, Any], int]] = {}
    maps: dict[tuple[str, int], int] = {}
    for received_ns, topic, packed in messages:
        values = msgpack.unpackb(packed)
        if values["stream"] != stream:
            raise SystemExit("A verdict of another run: the daemon was not idle.")
        key = values["camera"], values["seq"]
        if topic == b"verdict/":
            seen[key] = values, received_ns
        else:
            maps[key] = received_ns
    return [Heard(values, received_ns, maps.get(key)) for key, (values, received_ns) in seen.items()]


def rate_of(heard: Sequence[Heard]) -> float:
    """Return the verdicts and heat maps that came a second, once queues were full and caches warm."""
    times = sorted(max(entry.received_ns, entry.heatmap_ns or 0) for entry in heard)
    skipped = int(len(times) * WARM_UP_SHARE)
    return (len(times) - 1 - skipped) / ((times[-1] - times[skipped]) / 1e9)
