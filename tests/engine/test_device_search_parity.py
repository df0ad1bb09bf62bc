"""Search on the device serves a bank only where it agrees with the host's; where it may be asked for."""

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import structlog
import typer
from typer.testing import CliRunner

from daemon.commands.bench import bench
from daemon.commands.eval_ import eval_
from daemon.commands.fit import fit as fit_command
from daemon.commands.inspect import inspect
from daemon.config import Settings, parse_settings
from daemon.recipes import load_recipes
from patchcore_engine import bank_store
from patchcore_engine.backbones.device_search import BOUNDS, DeviceSearchExtractor
from patchcore_engine.backbones.export import export
from patchcore_engine.backbones.extractor import DeviceSearcher, SubstituteExtractor
from patchcore_engine.backbones.factory import open_extractor
from patchcore_engine.backbones.mindspore_extractor import MindIRExtractor, MindSporeExtractor
from patchcore_engine.backbones.registry import backbone_spec
from patchcore_engine.backbones.sleeping import SleepingExtractor
from patchcore_engine.backbones.weights import load_weights
from patchcore_engine.bank import MemoryBank
from patchcore_engine.errors import DeviceError, ParityError
from patchcore_engine.fit import fit
from patchcore_engine.inspector import Inspector, inspect_batch
from patchcore_engine.parity_set import ParitySet
from tests.engine import parts
from tests.engine.conftest import MakeExtractor
from tests.engine.device_banks import assert_same_findings, changed, prepared
from tests.engine.labelled_parts import CATEGORY, write_category


def test_it_stands_in_for_the_reference_and_is_held_to_the_banks_parity_pictures(
    resnet_bank: MemoryBank, on_device: DeviceSearchExtractor
) -> None:
    assert isinstance(on_device, DeviceSearcher)
    assert isinstance(on_device, SubstituteExtractor)
    found = Inspector(on_device, resnet_bank).check_parity()
    assert found is not None
    assert found.distance < 1e-5
    assert found.score < 1e-5


def altered(bank: MemoryBank, *, distances: float = 1.0, scores: float = 1.0) -> MemoryBank:
    assert bank.parity is not None
    parity = bank.parity
    return bank.with_parity(
        ParitySet(parity.pixels, (parity.distances * distances).astype(np.float32), parity.scores * scores)
    )


@pytest.mark.parametrize("change", [{"distances": 1.01}, {"scores": 1.01}], ids=str)
def test_a_search_that_deviates_from_the_stored_results_is_refused(
    change: dict[str, float], resnet_bank: MemoryBank, on_device: DeviceSearchExtractor
) -> None:
    with pytest.raises(ParityError, match=r'searching on the device deviates .* Set search = "faiss"'):
        Inspector(on_device, altered(resnet_bank, **change)).check_parity()


def test_a_device_that_holds_other_vectors_is_refused(
    resnet_bank: MemoryBank, second_bank: MemoryBank, make_extractor: MakeExtractor
) -> None:
    device = DeviceSearchExtractor(make_extractor())
    device._banks[resnet_bank] = device.on_device(changed(second_bank))
    with pytest.raises(ParityError, match="deviates"):
        Inspector(device, resnet_bank).check_parity()


def test_a_bank_without_parity_pictures_is_searched_on_the_host_only(
    resnet_bank: MemoryBank, on_device: DeviceSearchExtractor
) -> None:
    plain = changed(resnet_bank)
    plain.parity = None
    with pytest.raises(ParityError, match='search = "faiss"'):
        Inspector(on_device, plain).check_parity()


def test_fit_holds_the_search_to_the_new_bank(
    resnet_parts: list[Path], resnet_bank: MemoryBank, on_device: DeviceSearchExtractor
) -> None:
    made = fit(resnet_parts, on_device, parts.settings()).bank
    np.testing.assert_array_equal(made.index.vectors, resnet_bank.index.vectors)
    assert made.manifest.libraries["engine"] == on_device.engine


@pytest.fixture
def settings(resnet_bank: MemoryBank, second_bank: MemoryBank, tmp_path: Path) -> Settings:
    for own in (resnet_bank, second_bank):
        recipe = own.manifest.recipe
        bank_store.activate(tmp_path, recipe, bank_store.save(own, tmp_path, recipe).name)
    return parse_settings(
        f'[engine]\nsearch = "device"\nweights = "random:7"\nbatch_sizes = [1, 2, 4]\n[banks]\ndir = "{tmp_path}"\n'
        '[recipes.part]\nbank = "part"\ncameras = ["*"]\n[recipes.second]\nbank = "second"\n'
    )


def test_a_reload_swaps_the_resident_banks(settings: Settings) -> None:
    # Cells of other tests that aren't collected yet would take compiled shapes with them.
    gc.collect()
    recipes = load_recipes(settings)
    (extractor,) = recipes.extractors().values()
    assert isinstance(extractor, DeviceSearchExtractor)
    with structlog.testing.capture_logs() as logged:
        for recipe in recipes.recipes.values():
            recipe.rehearse()
    assert [entry["engine"] for entry in logged] == [extractor.engine] * 2
    assert extractor.resident == 2
    graphs = {extractor.on_device(recipe.bank)._graph for recipe in recipes.recipes.values()}
    assert [len(graph.compile_cache) for graph in graphs] == [3, 3]
    old = [weakref.ref(extractor.on_device(recipe.bank)) for recipe in recipes.recipes.values()]
    reloaded = load_recipes(settings, recipes.extractors())
    for recipe in reloaded.recipes.values():
        recipe.rehearse()
        assert recipe.inspector.extractor is extractor
    assert extractor.resident == 4
    del recipes, recipe
    gc.collect()
    assert [resident() for resident in old] == [None, None]
    assert extractor.resident == 2


def test_a_reload_refuses_a_bank_that_the_device_judges_otherwise(settings: Settings, resnet_bank: MemoryBank) -> None:
    recipes = load_recipes(settings)
    folder = settings.banks.dir
    bank_store.activate(folder, "part", bank_store.save(altered(resnet_bank, scores=1.1), folder, "part").name)
    reloaded = load_recipes(settings, recipes.extractors())
    with pytest.raises(ParityError, match=r'^recipes\.part: mindspore .* Set search = "faiss"'):
        reloaded.recipes["part"].rehearse()
    reloaded.recipes["second"].rehearse()


def test_an_exported_network_searches_on_the_device_too(
    resnet_bank: MemoryBank, make_extractor: MakeExtractor, tmp_path: Path
) -> None:
    file = tmp_path / "net.mindir"
    export(make_extractor(), file, "mindir")
    extractor = open_extractor(backbone="resnet18", backbone_file=file, batch_sizes=(1, 2), search="device")
    assert isinstance(extractor, DeviceSearchExtractor)
    assert isinstance(extractor.reference(), MindIRExtractor)
    Inspector(extractor, resnet_bank).check_parity()
    assert_same_findings(extractor, resnet_bank, 2)


def test_openvino_doesnt_search_on_a_device() -> None:
    with pytest.raises(DeviceError, match='with engine = "openvino" set search = "faiss"'):
        open_extractor(backbone="resnet18", weights="random:7", engine="openvino", search="device")


@pytest.mark.parametrize(
    "arguments",
    [
        "fit --good {folder} --banks {folder} --backbone resnet18",
        "inspect {folder} --bank {folder}/banks/part",
        "eval --data {folder} --category {category} --bank {folder}/banks/part",
        "bench --backbone resnet18",
    ],
    ids=lambda arguments: arguments.split()[0],
)
def test_every_command_that_offers_an_engine_offers_the_search(
    arguments: str, resnet_bank: MemoryBank, tmp_path: Path
) -> None:
    write_category(tmp_path)
    banks = tmp_path / "banks"
    bank_store.activate(banks, "part", bank_store.save(resnet_bank, banks, "part").name)
    parts.write_good_parts(tmp_path, 10)
    app = typer.Typer()
    app.command("fit")(fit_command)
    app.command("inspect")(inspect)
    app.command("eval")(eval_)
    app.command("bench")(bench)
    line = arguments.format(folder=tmp_path, category=CATEGORY)
    result = CliRunner().invoke(app, f"{line} --weights random:7 --engine openvino --search device".split())
    assert isinstance(result.exception, DeviceError)
    assert 'set search = "faiss"' in str(result.exception)


def test_the_rehearsal_backbone_is_searched_on_the_host() -> None:
    assert isinstance(open_extractor(backbone="sleeping", search="device"), SleepingExtractor)


@pytest.mark.ascend
def test_a_half_precision_network_on_an_npu_is_searched_as_the_host_does(
    resnet_parts: list[Path], tmp_path: Path
) -> None:
    spec = backbone_spec("resnet18")
    reference = MindSporeExtractor(
        spec,
        load_weights("random:7", spec),
        geometry=parts.GEOMETRY,
        device="Ascend",
        precision="float16",
        batch_sizes=(1, 2),
    )
    own = fit(resnet_parts, reference, parts.settings()).bank
    device = DeviceSearchExtractor(reference)
    device.warm_up()
    device.admit(own)
    found = Inspector(device, own).check_parity()
    assert found is not None
    assert found.within(BOUNDS)
    mixed = [(image, (own, changed(own))[n % 2]) for n, image in enumerate(prepared(4))]
    ours, theirs = (inspect_batch(extractor, mixed).inspections for extractor in (device, reference))
    assert [one and one.outcome for one in ours] == [one and one.outcome for one in theirs]
