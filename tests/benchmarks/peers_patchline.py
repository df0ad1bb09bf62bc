"""patchline's engine in a process of its own: each line on stdin is one piece of work, answered by milliseconds.

python -m tests.benchmarks.peers_patchline fit PICTURES ...     "fit" fits a bank; "save" writes it
python -m tests.benchmarks.peers_patchline judge PICTURES ...   each line is the number of the picture to judge
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from patchcore_engine.runtime import prepare_process

RECIPE = "peers"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=("fit", "judge"))
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--ratio", type=float, required=True)
    parser.add_argument("--engine", choices=("mindspore", "openvino"), required=True)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where banks and compiled networks are kept")
    asked = parser.parse_args()
    prepare_process()
    answers = _fitting(asked) if asked.work == "fit" else _judging(asked)
    for line in sys.stdin:
        begin = time.perf_counter()
        answers(line.strip())
        print((time.perf_counter() - begin) * 1e3, flush=True)


def _fitting(asked: argparse.Namespace) -> Callable[[str], object]:
    from patchcore_engine.backbones.factory import open_extractor
    from patchcore_engine.backbones.registry import backbone_spec
    from patchcore_engine.bank import MemoryBank
    from patchcore_engine.bank_store import activate, save
    from patchcore_engine.fit import FitSettings, fit
    from patchcore_engine.images import list_pictures

    extractor = open_extractor(
        backbone=asked.backbone, weights=asked.weights, engine=asked.engine, cache_dir=asked.folder / "compiled"
    )
    extractor.warm_up()
    paths = list_pictures(asked.pictures)[: asked.count]
    geometry = backbone_spec(asked.backbone).geometry
    settings = FitSettings(recipe=RECIPE, geometry=geometry, coreset_ratio=asked.ratio)
    banks: list[MemoryBank] = []

    def store() -> None:
        path = save(banks[-1], asked.folder, RECIPE)
        activate(asked.folder, RECIPE, path.name)

    work: dict[str, Callable[[], object]] = {
        "fit": lambda: banks.append(fit(paths, extractor, settings).bank),
        "save": store,
    }
    return lambda line: work[line]()


def _judging(asked: argparse.Namespace) -> Callable[[str], object]:
    from patchcore_engine.backbones.factory import open_extractor
    from patchcore_engine.bank import MemoryBank
    from patchcore_engine.bank_store import resolve
    from patchcore_engine.images import list_pictures, read
    from patchcore_engine.inspector import Inspector, inspect_batch

    bank = MemoryBank.load(resolve(asked.folder / RECIPE))
    extractor = open_extractor(
        backbone=asked.backbone,
        weights=asked.weights,
        batch_sizes=(1,),
        engine=asked.engine,
        cache_dir=asked.folder / "compiled",
    )
    extractor.warm_up()
    inspector = Inspector(extractor, bank)
    prepared = [inspector.prepare(read(path)) for path in list_pictures(asked.pictures)[: asked.count]]
    return lambda line: inspect_batch(extractor, [(prepared[int(line) % len(prepared)], bank)])


if __name__ == "__main__":
    main()
