"""A reload from one network to another, in one process with real networks, so that what is compiled can be seen."""

import gc
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from daemon.changeover import change_over
from daemon.config import load_settings
from daemon.pipeline import NO_RECIPES
from daemon.recipes import RecipeSet, load_recipes
from patchcore_engine.backbones.factory import open_extractor
from patchcore_engine.backbones.mindspore_extractor import MindSporeExtractor
from patchcore_engine.bank_store import activate, save
from patchcore_engine.benchmark import noise_bank
from patchcore_engine.errors import DeviceError
from patchcore_engine.images import Geometry
from patchcore_engine.inspector import Inspection, Inspector
from tests.daemon.conftest import write_config
from tests.daemon.stages import Line

GEOMETRY = Geometry(resize=64, image_size=64)
ENGINE = "[engine]\nbatch_sizes = [1, 2]\n"


@pytest.fixture(scope="module")
def network_banks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Banks `random_1` to `random_3` of one backbone and size, each of the weights that it is named after."""
    banks = tmp_path_factory.mktemp("banks")
    for seed in (1, 2, 3):
        extractor = open_extractor(backbone="resnet18", weights=f"random:{seed}", geometry=GEOMETRY, batch_sizes=(1, 2))
        bank = noise_bank(extractor, GEOMETRY, vectors=16, progress=None)
        activate(banks, f"random_{seed}", save(bank, banks, f"random_{seed}").name)
    return banks


@pytest.fixture
def line(tmp_path: Path, network_banks: Path) -> Iterator[Line]:
    """A line that serves the first of the banks."""
    # Networks of other tests that aren't collected yet would take compiled shapes with them.
    gc.collect()
    with Line(load_settings(write_config(tmp_path, network_banks, ENGINE, recipes=recipe(1)))) as line:
        line.pipeline.serve(NO_RECIPES)
        line.pipeline.start()
        change_over(line.pipeline, load_recipes(line.settings))
        yield line


def recipe(seed: int) -> str:
    return f'[recipes.caps]\nbank = "random_{seed}"\nweights = "random:{seed}"\ncameras = ["*"]\n'


def following(line: Line, seed: int, tmp_path: Path) -> RecipeSet:
    """The recipe with another bank, loaded beside the one that serves."""
    text = write_config(tmp_path / f"{seed}", line.settings.banks.dir, ENGINE, recipes=recipe(seed))
    return load_recipes(load_settings(text), line.pipeline.recipes.extractors())


def network(recipes: RecipeSet) -> Any:
    extractor = recipes.recipes["caps"].inspector.extractor
    assert isinstance(extractor, MindSporeExtractor)
    return extractor.network


def run_every_batch_size(line: Line) -> None:
    gc.collect()
    assert (
        line.pipeline.run_on_engine(line.pipeline.recipes.recipes["caps"].inspector.extractor.warm_up).result(60)
        is None
    )


def test_after_a_change_of_network_while_parts_flow_no_batch_waits_for_a_compiler(line: Line, tmp_path: Path) -> None:
    banks = [line.pipeline.recipes.recipes["caps"].bank.version]
    sent = 0
    for seed in (2, 3):
        former = network(line.pipeline.recipes)
        recipes = following(line, seed, tmp_path)
        banks.append(recipes.recipes["caps"].bank.version)
        for seq in range(sent, sent + 20):
            line.receive(seq)
        change_over(line.pipeline, recipes)
        compiled = set(network(recipes).compile_cache)
        assert len(compiled) == 2
        for seq in range(sent + 20, sent + 40):
            line.receive(seq)
        sent += 40
        line.published(sent)
        assert former.compile_cache == set()
        gone = weakref.ref(former)
        del former
        run_every_batch_size(line)
        assert gone() is None
        assert network(recipes).compile_cache == compiled
    verdicts = line.published(sent)
    assert [verdict.seq for verdict in verdicts] == list(range(sent))
    assert {verdict.reason for verdict in verdicts} == {None}
    assert list(dict.fromkeys(verdict.bank for verdict in verdicts)) == banks


class FailingInspector(Inspector):
    """Fails its trial."""

    def inspect(self, images: Sequence[NDArray[np.uint8]]) -> list[Inspection | None]:
        raise RuntimeError("no such device")


def test_a_network_that_fails_its_trial_is_given_back_and_the_one_that_serves_stays_compiled(
    line: Line, tmp_path: Path
) -> None:
    serving = line.pipeline.recipes
    compiled = set(network(serving).compile_cache)
    loaded = following(line, 2, tmp_path)
    caps = loaded.recipes["caps"]
    failing = replace(caps, inspector=FailingInspector(caps.inspector.extractor, caps.bank))
    with pytest.raises(DeviceError, match="failed its trial inspection: RuntimeError: no such device"):
        change_over(line.pipeline, RecipeSet({"caps": failing}, loaded.settings))
    assert network(loaded).compile_cache == set()
    assert line.pipeline.recipes is serving
    run_every_batch_size(line)
    assert network(serving).compile_cache == compiled
