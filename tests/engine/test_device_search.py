"""Search on the network's device gives the host's distances, scores and verdicts."""

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchcore_engine.backbones import bank_sizes
from patchcore_engine.backbones.device_search import DeviceSearchExtractor
from patchcore_engine.backbones.extractor import ExtractorIdentity
from patchcore_engine.backbones.mindspore_extractor import NetworkExtractor
from patchcore_engine.bank import MemoryBank
from patchcore_engine.fit import fit
from patchcore_engine.inspector import Inspector, inspect_batch
from tests.engine import parts
from tests.engine.conftest import MakeExtractor
from tests.engine.device_banks import PATCHES, assert_same_findings, changed, prepared
from tests.engine.not_a_number import NotANumber


@pytest.mark.parametrize("settings", [{}, {"reweight": False}, {"score_mode": "modelzoo"}], ids=str)
def test_distances_and_scores_are_the_hosts(
    settings: dict[str, Any], resnet_bank: MemoryBank, on_device: DeviceSearchExtractor
) -> None:
    assert_same_findings(on_device, changed(resnet_bank, **settings))


@pytest.mark.parametrize("settings", [{}, {"score_mode": "modelzoo"}], ids=str)
@pytest.mark.parametrize("vectors", [1, 3, 12])
def test_a_bank_may_be_smaller_than_the_neighbours_asked_for(
    vectors: int, settings: dict[str, Any], resnet_bank: MemoryBank, on_device: DeviceSearchExtractor
) -> None:
    assert_same_findings(on_device, changed(resnet_bank, vectors=vectors, **settings), 2)


def test_verdicts_and_maps_are_the_hosts(resnet_bank: MemoryBank, on_device: DeviceSearchExtractor) -> None:
    images = [parts.draw_part(np.random.default_rng(n), blot=n % 2 == 0) for n in range(6)]
    ours, theirs = (Inspector(e, resnet_bank).inspect(images) for e in (on_device, on_device.reference()))
    assert {found.outcome for found in theirs if found is not None} == {"pass", "fail"}
    for found, expected in zip(ours, theirs, strict=True):
        assert found is not None
        assert expected is not None
        assert (found.outcome, found.regions[:1] != ()) == (expected.outcome, expected.regions[:1] != ())
        assert found.score == pytest.approx(expected.score, rel=1e-5)
        np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map, rtol=1e-5, atol=1e-5 * expected.score)


def test_recipes_mixed_in_one_batch_are_each_searched_in_their_own_bank(
    resnet_bank: MemoryBank, second_bank: MemoryBank, on_device: DeviceSearchExtractor
) -> None:
    images = prepared(4)
    for owners in ([0, 1, 0, 0], [1, 0], [1, 1, 0]):
        items = [(image, (resnet_bank, second_bank)[owner]) for image, owner in zip(images, owners, strict=False)]
        together = inspect_batch(on_device, items).inspections
        for item, found in zip(items, together, strict=True):
            (alone,) = inspect_batch(on_device.reference(), [item]).inspections
            assert found is not None
            assert alone is not None
            assert found.score == pytest.approx(alone.score, rel=1e-5)
            assert found.outcome == alone.outcome


def test_a_product_that_would_be_too_large_is_made_in_parts(
    resnet_bank: MemoryBank, make_extractor: MakeExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank_sizes, "PRODUCT_BYTES", 2 * PATCHES * 512 * 4)
    device = DeviceSearchExtractor(make_extractor(batch_sizes=(1, 2, 4)))
    assert device.on_device(resnet_bank).pictures_at_once == 2
    assert_same_findings(device, resnet_bank, 3)


def test_a_picture_whose_patches_are_no_numbers_gets_no_score_and_harms_no_other(resnet_parts: list[Path]) -> None:
    reference = NetworkExtractor(
        NotANumber(),
        ExtractorIdentity(
            backbone="colours", weights_digest="0" * 64, embedding="paper", image_size=64, precision="float32"
        ),
        grid=(8, 8),
        dimension=3,
        batch_sizes=(1, 2),
    )
    black = np.zeros((64, 64, 3), np.uint8)
    half = parts.draw_part(np.random.default_rng(1))
    half[:40] = 0
    good = parts.draw_part(np.random.default_rng(2))
    device = DeviceSearchExtractor(reference)
    for mode in ("paper", "modelzoo"):
        own = fit(resnet_parts, reference, parts.settings(score_mode=mode)).bank
        for pictures in ([good, black], [half, good], [black]):
            ours, theirs = (Inspector(extractor, own).inspect(pictures) for extractor in (device, reference))
            assert [found is None for found in ours] == [found is None for found in theirs]
            assert [found is None for found in ours] == [picture is not good for picture in pictures]
            if ours[-1] is not None:
                assert theirs[-1] is not None
                assert ours[-1].score == pytest.approx(theirs[-1].score, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("settings", [{}, {"reweight": False}, {"score_mode": "modelzoo"}], ids=str)
def test_a_distance_that_is_no_number_leaves_no_score_whichever_patch_the_device_called_worst(
    settings: dict[str, Any], resnet_bank: MemoryBank
) -> None:
    distances = np.array([1, np.nan, 2], np.float32)
    assert np.isnan(changed(resnet_bank, **settings).image_score(distances, np.full(9, 2, np.float32)))


def test_banks_of_one_size_share_their_graph_and_leave_with_their_last_user(
    resnet_bank: MemoryBank, second_bank: MemoryBank, make_extractor: MakeExtractor
) -> None:
    device = DeviceSearchExtractor(make_extractor(batch_sizes=(1,)))
    first, second, larger = changed(resnet_bank), changed(resnet_bank, vectors=50), changed(second_bank)
    for own in (first, second, larger):
        device.admit(own)
    graphs = {id(device.on_device(own)._graph) for own in (first, second, larger)}
    assert len(graphs) == 2
    assert len(device._graphs.kinds) == 2
    gone = weakref.ref(device.on_device(larger))
    del larger, own
    gc.collect()
    assert gone() is None
    assert device.resident == 2


def test_a_bank_that_was_admitted_never_lets_a_batch_wait_for_a_compiler(
    resnet_bank: MemoryBank, make_extractor: MakeExtractor
) -> None:
    # Cells of other tests that aren't collected yet would take compiled shapes with them.
    gc.collect()
    device, own, images = DeviceSearchExtractor(make_extractor()), changed(resnet_bank), prepared(4)
    device.warm_up()
    device.admit(own)
    cells = [device._graphs.pick, device.on_device(own)._graph]
    compiled = [set(cell.compile_cache) for cell in cells]
    for pictures in ([0], [0, 1], [0, 1, 2, 3], [2], [3, 1], [1, 2, 3]):
        patches = device.embed_for_search(np.stack([image.pixels for image in images]))
        patches.search(own, pictures)
    assert [set(cell.compile_cache) for cell in cells] == compiled


def test_the_search_may_be_warmed_up_before_any_bank_is_there(make_extractor: MakeExtractor) -> None:
    device = DeviceSearchExtractor(make_extractor(batch_sizes=(1,)))
    device.warm_up()
    assert device.resident == 0
