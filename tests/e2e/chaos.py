"""kill -9 at random moments under load, and the account: python -m tests.e2e.chaos --cycles 100

    --kill daemon|subscriber|both   who is killed in each cycle
    --real-engine                   efficientnet_lite0 serves instead of the sleeping backbone
    --faults N                      the sleeping backbone plays N faults after each start: raises, hangs, slows down ...
    --keys                          every door asks for keys, and all traffic is encrypted
    --overload SECONDS              no kills: frames come at three times the engine's rate
    --seed N                        the same moments again, as far as a machine allows

Prints the account as JSON and ends with status 0 only if it balances.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Literal, get_args

from patchcore_engine.backbones.faults import Fault
from tests.daemon.conftest import fit_sleeping_bank, good_part
from tests.e2e.account import Account
from tests.e2e.overload import run_overload
from tests.e2e.rig import Rig, random_moment

Victim = Literal["daemon", "subscriber", "both"]
RECIPES = ("caps", "pins")
# Both cameras together keep the engine busy four fifths of the time.
SLEEP_MS = 8.0
BATCH = 4
PERIOD_S = 2 * SLEEP_MS / 1000 / BATCH / 0.8
# After the trial inspections of both recipes.
FIRST_FAULT = 2
FAULTY_BATCHES = 10
HANG_S = 0.5
REAL_SIZE = 96
REAL_PERIOD_S = 0.1


def sleeping_settings(sleep_ms: float = SLEEP_MS, batch: int = BATCH, faults: str = "[]") -> str:
    return f"""
[engine]
sleep_ms = {sleep_ms}
batch_sizes = [1, {batch}]
faults = {faults}
[intake]
heartbeat_ms = 500
[queue]
shed = "block"
"""


REAL_SETTINGS = """
[engine]
batch_sizes = [1, 2]
[intake]
heartbeat_ms = 500
[queue]
shed = "block"
"""


def draw_faults(rng: random.Random, count: int) -> str:
    """Return `count` faults of the engine as the configuration writes them, one after the other, each soon over."""
    faults, after = [], FIRST_FAULT
    for _ in range(count):
        kind, batches = rng.choice(get_args(Fault.model_fields["kind"].annotation)), rng.randint(1, FAULTY_BATCHES)
        batches = 1 if kind == "hang" else batches
        faults.append(f'{{ kind = "{kind}", after = {after}, batches = {batches}, seconds = {HANG_S} }}')
        after += batches + rng.randint(1, FAULTY_BATCHES)
    return f"[{', '.join(faults)}]"


def fit_real_banks(folder: Path) -> Path:
    """Fit small efficientnet_lite0 banks for both recipes; returns the folder of banks."""
    from patchcore_engine.runtime import prepare_process

    prepare_process()
    from patchcore_engine.backbones.factory import open_extractor
    from patchcore_engine.bank_store import activate, save
    from patchcore_engine.fit import FitSettings, fit
    from patchcore_engine.images import Geometry, encode_png

    geometry = Geometry(resize=REAL_SIZE, image_size=REAL_SIZE)
    extractor = open_extractor(backbone="efficientnet_lite0", geometry=geometry, batch_sizes=(1, 2))
    for seed, recipe in enumerate(RECIPES):
        pictures = []
        (folder / recipe).mkdir(parents=True)
        for number in range(24):
            picture = folder / recipe / f"{number:03}.png"
            picture.write_bytes(encode_png(good_part(1000 * seed + number)))
            pictures.append(picture)
        settings = FitSettings(recipe=recipe, geometry=geometry, coreset_ratio=0.1, seed=seed)
        version = save(fit(pictures, extractor, settings).bank, folder / "banks", recipe).name
        activate(folder / "banks", recipe, version)
    return folder / "banks"


def fit_sleeping_banks(folder: Path) -> Path:
    for seed, recipe in enumerate(RECIPES):
        fit_sleeping_bank(folder / recipe, folder / "banks", recipe, seed=seed)
    return folder / "banks"


def run_chaos(rig: Rig, *, cycles: int, victim: Victim, rng: random.Random, verbose: bool = False) -> Account:
    """Kill `victim` in each of `cycles`, then let the line come to rest; returns the account."""
    try:
        rig.wait_until_ready()
        rig.start_cameras()
        for cycle in range(cycles):
            random_moment(rig, rng)
            if victim != "daemon":
                rig.kill_subscriber()
            if victim != "subscriber":
                rig.kill_daemon()
            if verbose and (cycle + 1) % 10 == 0:
                sent = sum(camera.sender.sent for camera in rig.cameras)
                print(f"{cycle + 1} of {cycles} kills, {sent} parts sent", file=sys.stderr, flush=True)
        return rig.finish()
    finally:
        rig.abandon()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--kill", choices=("daemon", "subscriber", "both"), default="daemon")
    parser.add_argument("--real-engine", action="store_true")
    parser.add_argument("--keys", action="store_true")
    parser.add_argument("--faults", type=int, default=0, metavar="N")
    parser.add_argument("--overload", type=float, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**32)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="patchline-chaos-") as name:
        folder = Path(name)
        banks = fit_real_banks(folder) if options.real_engine else fit_sleeping_banks(folder)
        if options.overload is not None:
            report = run_overload(folder / "line", banks, seconds=options.overload)
            print(json.dumps(asdict(report)))
            return 0 if report.held else 1
        rng = random.Random(seed)
        faults = draw_faults(rng, options.faults)
        settings = REAL_SETTINGS if options.real_engine else sleeping_settings(faults=faults)
        period_s = REAL_PERIOD_S if options.real_engine else PERIOD_S
        rig = Rig(folder / "line", banks, settings=settings, period_s=period_s, keyed=options.keys)
        account = run_chaos(rig, cycles=options.cycles, victim=options.kill, rng=rng, verbose=True)
    print(
        json.dumps(
            {
                "cycles": options.cycles,
                "killed": options.kill,
                "real_engine": options.real_engine,
                "keys": options.keys,
                "faults": options.faults,
                "seed": seed,
                "seconds": round(time.monotonic() - begin, 1),
                "journal_checks": rig.journal_checks,
                "resent": sum(camera.sender.resent for camera in rig.cameras),
                **asdict(account),
            }
        )
    )
    return 0 if account.balanced else 1


if __name__ == "__main__":
    sys.exit(main())
