"""config.toml: settings, or one short line."""

from collections.abc import Iterator
from pathlib import Path

from daemon.config import parse_settings
from daemon.errors import ConfigError


def seeds() -> Iterator[bytes]:
    text = (Path(__file__).parents[3] / "config.toml").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("# ")]
    yield "\n".join(lines).encode()
    yield b'[recipes.caps]\nbank = "caps"\ncameras = ["left", "*"]\nmax_age_ms = 500\nfail_threshold = 2.5\n'
    yield b'[intake]\npush = "tcp://127.0.0.1:5555"\nacked = ""\n[queue]\nshed = "block"\nbytes = 0x10000000\n'


def one_input(data: bytes) -> None:
    try:
        parse_settings(data.decode("utf-8", errors="replace"))
    except ConfigError as error:
        told = str(error)
    else:
        return
    assert len(told) < 1000
