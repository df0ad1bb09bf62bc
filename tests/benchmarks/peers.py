"""anomalib's PatchCore and ours on the same pictures, weights and cores in turn: per picture, fit, peak memory.

    make bench-peers PEERS_ARGS="--pictures DIR --json FILE"

Those that wait for their turn are stopped, so that no thread of theirs spins. Judging is measured from the prepared
picture, uint8 [224, 224, 3], to score and map; a fit from the files, and ours includes the calibration that anomalib's
doesn't have.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from rich.console import Console

from daemon.simulator import SimulatedCamera
from patchcore_engine.backbones.registry import backbone_spec
from patchcore_engine.backbones.weights import load_weights
from patchcore_engine.images import list_pictures
from tests.benchmarks.__main__ import TABLE_WIDTH, _machine_line, _table
from tests.benchmarks.child import Child
from tests.benchmarks.figures import Row, as_json, compared, in_turns, peak_rss_bytes
from tests.benchmarks.machine import machine

TORCH: Final = "anomalib torch"
EXPORT: Final = "anomalib openvino"
REFERENCE: Final = "patchline mindspore"
OURS: Final = {REFERENCE: "mindspore", "patchline openvino": "openvino"}

BACKBONE: Final = "wide_resnet50_2"
RATIOS: Final = (0.01, 0.1)
# Of the ratios, the one that anomalib fits without --full too: at 10 % it takes ten times as long.
FITTED_RATIO: Final = 0.01
DRAWN_PICTURES: Final = 200
JUDGED_PICTURES: Final = 8
ROUNDS: Final = 15
WARM_UP: Final = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Contest:
    """What all contestants are given. `folder` holds what they write, a folder for each ratio below it."""

    python: Path
    pictures: Path
    count: int
    weights: str
    folder: Path
    rounds: int
    full: bool

    def home(self, ratio: float) -> Path:
        return self.folder / f"{ratio:g}"

    @contextmanager
    def anomalib(self, work: str, ratio: float, pictures: int, *further: str) -> Iterator[Child]:
        geometry = backbone_spec(BACKBONE).geometry
        numbers = {
            "count": pictures,
            "threads": len(os.sched_getaffinity(0)),
            "resize": geometry.resize,
            "image-size": geometry.image_size,
            "ratio": ratio,
        }
        with _running(
            *(str(self.python), "-m", "tests.benchmarks.peers_anomalib", work, str(self.pictures)),
            *(f"--{name}={number}" for name, number in numbers.items()),
            *(f"--weights={self.folder / 'weights.npz'}", f"--folder={self.home(ratio)}", *further),
        ) as child:
            yield child

    @contextmanager
    def patchline(self, work: str, engine: str, ratio: float, pictures: int) -> Iterator[Child]:
        with _running(
            *(sys.executable, "-m", "tests.benchmarks.peers_patchline", work, str(self.pictures)),
            *(f"--count={pictures}", f"--ratio={ratio}", f"--engine={engine}", f"--backbone={BACKBONE}"),
            *(f"--weights={self.weights}", f"--folder={self.home(ratio)}"),
        ) as child:
            yield child


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-peers", description="Nothing is asserted.")
    parser.add_argument("--peers-python", type=Path, required=True, help="a Python with anomalib")
    parser.add_argument("--pictures", type=Path, help="a folder of good pictures; without it, parts are drawn")
    parser.add_argument("--count", type=int, help="take no more pictures than this")
    parser.add_argument("--weights", default="random:0", help="a .pth file of the published weights, or random:SEED")
    parser.add_argument("--threads", type=int, help="cores for each contestant; without it, all")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="pictures that each contestant judges")
    parser.add_argument("--ratio", type=float, action="append", help="only this share of the patches; may be repeated")
    parser.add_argument("--full", action="store_true", help="let anomalib fit at 10 %% too: half an hour and more")
    parser.add_argument("--json", type=Path, help="write machine and rows to this file")
    asked = parser.parse_args()
    if asked.threads is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: asked.threads])
    console = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH)
    facts = machine(asked.peers_python)
    console.print(_machine_line(facts))
    rows: list[Row] = []
    with TemporaryDirectory(prefix="patchline-peers-") as name:
        folder = Path(name)
        pictures = asked.pictures.resolve() if asked.pictures is not None else _draw(folder, asked.count)
        contest = Contest(
            python=asked.peers_python.absolute(),
            pictures=pictures,
            count=len(list_pictures(pictures)[: asked.count]),
            weights=asked.weights,
            folder=folder,
            rounds=asked.rounds,
            full=asked.full,
        )
        tensors: dict[str, Any] = dict(load_weights(asked.weights, backbone_spec(BACKBONE)).tensors)
        np.savez(folder / "weights.npz", **tensors)
        for ratio in asked.ratio or RATIOS:
            contest.home(ratio).mkdir()
            for found in (list(_fits(contest, ratio)), list(_judgements(contest, ratio))):
                console.print(_table(found[0].what, found))
                rows += found
                if asked.json is not None:
                    asked.json.write_text(json.dumps(as_json(facts, rows), indent=2) + "\n", encoding="utf-8")


def _fits(contest: Contest, ratio: float) -> Iterator[Row]:
    seconds: dict[str, list[float]] = {}
    memory: dict[str, dict[str, Any]] = {}
    whole = contest.full or ratio <= FITTED_RATIO
    with contest.anomalib("fit", ratio, contest.count, *([] if whole else ["--without-coreset"])) as child:
        taken = child.ask("fit") / 1e3
        if whole:
            seconds[TORCH], memory[TORCH] = [taken], {"peak_rss_bytes": peak_rss_bytes(child.pid)}
        child.ask("save")
    # What is saved last is judged with: the bank of the reference engine.
    for name, engine in reversed(tuple(OURS.items())) if whole else [(REFERENCE, OURS[REFERENCE])]:
        with contest.patchline("fit", engine, ratio, contest.count) as child:
            seconds[name] = [child.ask("fit") / 1e3]
            memory[name] = {"peak_rss_bytes": peak_rss_bytes(child.pid)}
            child.ask("save")
    yield from compared(f"fit of {contest.count} pictures at {ratio:.0%}", "s", seconds, TORCH, memory)


def _judgements(contest: Contest, ratio: float) -> Iterator[Row]:
    with ExitStack() as stack:
        children: dict[str, Child] = {}
        for name, work in ((TORCH, "torch"), (EXPORT, "openvino")):
            children[name] = stack.enter_context(contest.anomalib(work, ratio, JUDGED_PICTURES))
        for name, engine in OURS.items():
            children[name] = stack.enter_context(contest.patchline("judge", engine, ratio, JUDGED_PICTURES))
        values = in_turns(
            {name: _pictures_in_order(child) for name, child in children.items()},
            contest.rounds,
            warm_up=WARM_UP,
        )
        memory: dict[str, dict[str, Any]] = {
            name: {"peak_rss_bytes": peak_rss_bytes(child.pid)} for name, child in children.items()
        }
    what = f"one picture, {ratio:.0%} bank"
    yield from compared(what, "ms", values, TORCH, memory)
    against = {name: own for name, own in values.items() if name != TORCH}
    yield from compared(f"{what}, beside the export", "ms", against, EXPORT, memory)


def _pictures_in_order(child: Child) -> Callable[[], float]:
    numbers = count()

    def judge() -> float:
        child.resume()
        milliseconds = child.ask(str(next(numbers)))
        child.pause()
        return milliseconds

    return judge


@contextmanager
def _running(*command: str) -> Iterator[Child]:
    child = Child(command)
    try:
        yield child
    finally:
        child.close()


def _draw(folder: Path, pictures: int | None) -> Path:
    drawn = folder / "pictures"
    drawn.mkdir()
    frames = SimulatedCamera.drawing("disc", defective_share=0).frames(pictures or DRAWN_PICTURES)
    for frame in frames:
        (drawn / f"{frame.part}.png").write_bytes(frame.payload)
    return drawn


if __name__ == "__main__":
    main()
