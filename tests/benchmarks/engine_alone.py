"""The engine without a daemon, in a process of its own: for each batch size on stdin one line of milliseconds.

python -m tests.benchmarks.engine_alone BANK --sleep-ms MS --height H --width W
"""

import argparse
import sys
import time
from pathlib import Path

from tests.benchmarks.child import Child


class EngineAlone(Child):
    """The child process, seen from the benchmark."""

    def __init__(self, bank: Path, sleep_ms: float, height: int, width: int) -> None:
        super().__init__(
            [
                *(sys.executable, "-m", "tests.benchmarks.engine_alone", str(bank)),
                *("--sleep-ms", str(sleep_ms), "--height", str(height), "--width", str(width)),
            ]
        )

    def batch_ms(self, batch: int) -> float:
        """Let it judge one batch of prepared pictures."""
        return self.ask(str(batch))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bank", type=Path)
    parser.add_argument("--sleep-ms", type=float, required=True)
    parser.add_argument("--height", type=int, required=True)
    parser.add_argument("--width", type=int, required=True)
    asked = parser.parse_args()

    from patchcore_engine.runtime import prepare_process

    prepare_process()
    from patchcore_engine.backbones.extractor import FeatureExtractor
    from patchcore_engine.backbones.factory import open_extractor
    from patchcore_engine.backbones.sleeping import SleepingExtractor
    from patchcore_engine.bank import MemoryBank
    from patchcore_engine.bank_store import resolve
    from patchcore_engine.inspector import Inspector, inspect_batch
    from tests.benchmarks.load import pictures

    bank = MemoryBank.load(resolve(asked.bank))
    if bank.manifest.backbone == "sleeping":
        extractor: FeatureExtractor = SleepingExtractor(
            image_size=bank.manifest.image_size,
            grid=bank.manifest.grid[0],
            dimension=bank.manifest.dimension,
            seconds_per_batch=asked.sleep_ms / 1e3,
        )
    else:
        extractor = open_extractor(backbone=bank.manifest.backbone, weights="random:0", geometry=bank.manifest.geometry)
        extractor.warm_up()
    inspector = Inspector(extractor, bank)
    prepared = [inspector.prepare(picture) for picture in pictures(asked.height, asked.width)]
    for line in sys.stdin:
        items = [(picture, bank) for picture in prepared[-int(line) :]]
        begin = time.perf_counter()
        inspect_batch(extractor, items)
        print((time.perf_counter() - begin) * 1e3, flush=True)


if __name__ == "__main__":
    main()
