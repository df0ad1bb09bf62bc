"""What an extractor compiled is given back when it is released, and no other extractor waits for a compiler then."""

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mindspore.graph.api import _cell_graph_executor

from patchcore_engine.backbones.device_search import DeviceSearchExtractor
from patchcore_engine.backbones.export import export
from patchcore_engine.backbones.extractor import FeatureExtractor
from patchcore_engine.backbones.mindspore_extractor import MindIRExtractor, MindSporeExtractor
from patchcore_engine.backbones.registry import backbone_spec
from patchcore_engine.backbones.weights import load_weights
from patchcore_engine.bank import MemoryBank
from patchcore_engine.images import Geometry
from tests.engine.conftest import MakeExtractor
from tests.engine.device_banks import assert_same_findings, changed

BATCH_SIZES = (1, 2)


@pytest.fixture(autouse=True)
def alone() -> None:
    """Cells of other tests that aren't collected yet would take compiled shapes with them."""
    gc.collect()


def opened(weights: str = "random:7") -> MindSporeExtractor:
    spec = backbone_spec("resnet18")
    geometry = Geometry(resize=64, image_size=64)
    return MindSporeExtractor(spec, load_weights(weights, spec), geometry=geometry, batch_sizes=BATCH_SIZES)


def embed_every_size(extractor: FeatureExtractor) -> None:
    for pictures in BATCH_SIZES:
        extractor.embed(np.zeros((pictures, 64, 64, 3), np.uint8))


def compiled(*cells: Any) -> list[set[str]]:
    return [set(cell.compile_cache) for cell in cells]


def test_a_network_that_is_released_and_collected_leaves_the_others_compiled() -> None:
    serving = opened("random:1")
    serving.warm_up()
    for seed in (2, 3):
        following = opened(f"random:{seed}")
        following.warm_up()
        before = compiled(following.network)
        assert len(before[0]) == len(BATCH_SIZES)
        serving.release()
        gone = weakref.ref(serving)
        serving = following
        gc.collect()
        assert gone() is None
        embed_every_size(serving)
        assert compiled(serving.network) == before


def test_what_was_released_is_gone_from_the_compiler_and_leaves_nothing_to_a_destructor() -> None:
    extractor = opened()
    extractor.warm_up()
    (phases,) = compiled(extractor.network)
    assert [_cell_graph_executor.has_compiled(phase) for phase in phases] == [True] * len(BATCH_SIZES)
    extractor.release()
    assert [_cell_graph_executor.has_compiled(phase) for phase in phases] == [False] * len(BATCH_SIZES)
    assert compiled(extractor.network) == [set()]


def test_an_exported_network_is_given_back_too(make_extractor: MakeExtractor, tmp_path: Path) -> None:
    file = tmp_path / "resnet18.mindir"
    export(make_extractor(), file, "mindir")
    first, second = (MindIRExtractor(file, batch_sizes=BATCH_SIZES) for _ in range(2))
    for extractor in (first, second):
        extractor.warm_up()
    before = compiled(second._network)
    assert len(before[0]) == len(BATCH_SIZES)
    first.release()
    assert compiled(first._network) == [set()]
    del first, extractor
    gc.collect()
    embed_every_size(second)
    assert compiled(second._network) == before


def test_a_search_on_the_device_that_is_released_leaves_the_others_compiled(resnet_bank: MemoryBank) -> None:
    own, others = changed(resnet_bank), changed(resnet_bank)
    serving, following = DeviceSearchExtractor(opened()), DeviceSearchExtractor(opened())
    for extractor, bank in ((serving, own), (following, others)):
        extractor.warm_up()
        extractor.admit(bank)
    cells = [
        following.reference()._network,
        following._graphs.pick,
        *following._graphs.of(following.on_device(others).kind),
    ]
    before = compiled(*cells)
    assert all(before)
    serving.release()
    assert serving.resident == 0
    del serving, extractor
    gc.collect()
    for pictures in (1, 2):
        assert_same_findings(following, others, pictures)
    another = changed(resnet_bank)
    following.admit(another)
    assert compiled(*cells) == before


def test_graphs_of_a_size_that_no_bank_has_any_more_are_given_back_when_the_next_bank_comes(
    resnet_bank: MemoryBank, second_bank: MemoryBank
) -> None:
    device = DeviceSearchExtractor(opened())
    serving, larger = changed(resnet_bank), changed(second_bank)
    for bank in (serving, larger):
        device.admit(bank)
    kind = device.on_device(larger).kind
    cells = [*device._graphs.of(kind)]
    kept = [*device._graphs.of(device.on_device(serving).kind)]
    before = compiled(*kept)
    assert all(compiled(*cells))
    del larger, bank
    gc.collect()
    another = changed(resnet_bank)
    device.admit(another)
    assert compiled(*cells) == [set(), set()]
    assert device._graphs.kinds == {device.on_device(serving).kind}
    del cells
    gc.collect()
    assert_same_findings(device, serving, 2)
    assert compiled(*kept) == before
