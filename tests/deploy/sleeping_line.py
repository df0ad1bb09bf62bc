"""A line to run a daemon on: a small bank of the sleeping backbone, and a configuration that names it."""

from pathlib import Path

import numpy as np

from patchcore_engine import bank_store
from patchcore_engine.fit import fit
from tests.engine.parts import draw_part, extractor, settings, write_good_parts

RECIPE = "part"
CAMERA = "top"


def write_bank(banks: Path, *, seed: int = 0) -> Path:
    """Fit a bank and make it the active one; return its folder."""
    pictures = write_good_parts(banks.parent / f"good-{seed}", seed=seed)
    folder = bank_store.save(fit(pictures, extractor(), settings(seed=seed)).bank, banks, RECIPE)
    return bank_store.activate(banks, RECIPE, folder.name)


def write_config(folder: Path, *, state: Path, sleep_ms: int = 0, stuck_s: float = 30.0, drain_s: float = 20.0) -> Path:
    """Write config.toml beside the folder `banks`, with sockets in `state`; return its path."""
    path = folder / "config.toml"
    path.write_text(
        f"""
[engine]
sleep_ms = {sleep_ms}.0
batch_sizes = [1]
[banks]
dir = "{folder / "banks"}"
[intake]
push = "ipc://{state}/push"
acked = ""
[publish]
verdicts = "ipc://{state}/verdicts"
replay = "ipc://{state}/replay"
[telemetry]
listen = "127.0.0.1:0"
[service]
state_dir = "{state}"
stuck_s = {stuck_s}
drain_s = {drain_s}
[recipes.{RECIPE}]
bank = "{RECIPE}"
cameras = ["{CAMERA}"]
"""
    )
    return path


def good_part(seed: int = 100) -> np.ndarray:
    return draw_part(np.random.default_rng(seed))
