"""What the tests ask of a running daemon."""

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import msgpack

from daemon.config import load_settings
from daemon.journal import JournalReader
from daemon.keys import ClientKeys
from daemon.messages import Verdict
from daemon.stations import JOURNAL_FILE
from daemon.verdict_stream import VerdictStream
from patchcore_engine.images import encode_png
from tests.daemon.conftest import DaemonProcess, good_part

Start = Callable[..., DaemonProcess]


def verdicts_of(daemon: DaemonProcess, count: int, keys: ClientKeys | None = None) -> list[Verdict]:
    """The journal's first `count` verdicts, waited for."""
    addresses = daemon.addresses
    with VerdictStream(addresses["verdicts"], addresses["replay"], from_offset=0, keys=keys) as stream:
        found = [stream.next(30) for _ in range(count)]
    assert None not in found, f"only {found.index(None)} of {count} verdicts came"
    return [verdict for verdict in found if verdict is not None]


def page(daemon: DaemonProcess, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{daemon.addresses['telemetry']}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def metric(daemon: DaemonProcess, sample: str) -> float:
    """The value of one sample, named as /metrics writes it."""
    lines = page(daemon, "/metrics")[1].splitlines()
    (value,) = [line.rpartition(" ")[2] for line in lines if line.rpartition(" ")[0] == sample]
    return float(value)


def until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    """Ask until `condition` holds; each question takes its time as a request to the daemon."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came about"


def journalled(daemon: DaemonProcess) -> list[Verdict]:
    with JournalReader(load_settings(daemon.config).journal_dir / JOURNAL_FILE) as journal:
        return journal.read(0, 10_000)


def on_the_same_addresses(daemon: DaemonProcess, *, without: str = "") -> Path:
    """Let the next daemon with this one's configuration, less the text `without`, be where this one was."""
    text = daemon.config.read_text().replace(without.partition("\n")[2], "")
    for door, address in daemon.addresses.items():
        text = text.replace(f'{door} = "tcp://127.0.0.1:*"', f'{door} = "{address}"')
    daemon.config.write_text(text)
    return daemon.config


def patchline(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "daemon.cli", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def frame(camera: str, seq: int, stream: int = 1) -> list[bytes]:
    header = {"v": 1, "camera": camera, "stream": stream, "seq": seq, "captured_ns": 0, "encoding": "png"}
    return [msgpack.packb(header), encode_png(good_part(seq % 1000))]
