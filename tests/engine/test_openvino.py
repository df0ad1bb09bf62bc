"""The OpenVINO engine: MindSpore's results from the same weights, or no service."""

import importlib.util
import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import structlog

from daemon.config import parse_settings
from daemon.recipes import load_recipes
from patchcore_engine import bank_store
from patchcore_engine.backbones import bfloat16, openvino_extractor
from patchcore_engine.backbones.export import export
from patchcore_engine.backbones.extractor import PrecisionHint, SubstituteExtractor
from patchcore_engine.backbones.factory import open_extractor
from patchcore_engine.backbones.openvino_extractor import OpenVinoExtractor
from patchcore_engine.backbones.registry import backbone_spec
from patchcore_engine.backbones.sidecar import sidecar_path
from patchcore_engine.backbones.weights import load_weights
from patchcore_engine.bank import MemoryBank
from patchcore_engine.errors import DeviceError, ParityError
from patchcore_engine.fit import fit
from patchcore_engine.inspector import Inspector
from tests.engine import parts
from tests.engine.conftest import MakeExtractor

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino isn't installed: pip install 'patchline[openvino]'"
)

IMAGES = np.random.RandomState(5).randint(0, 256, (3, 64, 64, 3)).astype(np.uint8)

OpenOpenVino = Callable[..., OpenVinoExtractor]


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def open_openvino(cache_dir: Path) -> OpenOpenVino:
    @cache
    def make(
        backbone: str = "resnet18", hint: PrecisionHint = "float32", folder: Path = cache_dir
    ) -> OpenVinoExtractor:
        spec = backbone_spec(backbone)
        return OpenVinoExtractor(
            spec,
            load_weights("random:7", spec),
            geometry=parts.GEOMETRY,
            precision_hint=hint,
            batch_sizes=(1, 4),
            cache_dir=folder,
        )

    return make


@pytest.fixture(scope="module")
def good_parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return parts.write_good_parts(tmp_path_factory.mktemp("good"), 12)


@pytest.fixture(scope="module")
def bank(good_parts: list[Path], make_extractor: MakeExtractor) -> MemoryBank:
    return fit(good_parts, make_extractor(), parts.settings()).bank


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "resnet18"])
def test_it_gives_the_reference_engines_patches_and_identity(
    backbone: str, open_openvino: OpenOpenVino, make_extractor: MakeExtractor
) -> None:
    ours, reference = open_openvino(backbone), make_extractor(backbone)
    assert ours.identity == reference.identity
    assert (ours.grid, ours.dimension) == (reference.grid, reference.dimension)
    expected = reference.embed(IMAGES)
    np.testing.assert_allclose(ours.embed(IMAGES), expected, rtol=1e-4, atol=1e-5 * float(np.abs(expected).max()))


def test_an_answer_outlives_the_next_batch(open_openvino: OpenOpenVino) -> None:
    extractor = open_openvino()
    first = extractor.embed(IMAGES[:1])
    kept = first.copy()
    extractor.embed(IMAGES[1:2])
    np.testing.assert_array_equal(first, kept)


def test_one_that_was_released_has_given_back_what_it_compiled_and_compiles_anew(open_openvino: OpenOpenVino) -> None:
    ours = open_openvino()
    before = ours.embed(IMAGES[:1])
    compiled = weakref.ref(ours._requests[1])
    ours.release()
    assert compiled() is None
    np.testing.assert_array_equal(ours.embed(IMAGES[:1]), before)


def test_it_serves_a_bank_of_the_reference_engine(
    bank: MemoryBank, open_openvino: OpenOpenVino, make_extractor: MakeExtractor
) -> None:
    extractor = open_openvino()
    assert isinstance(extractor, SubstituteExtractor)
    inspector = Inspector(extractor, bank)
    inspector.check_parity()
    pictures = [parts.draw_part(np.random.default_rng(seed), blot=seed % 2 == 0) for seed in range(4)]
    ours, theirs = inspector.inspect(pictures), Inspector(make_extractor(), bank).inspect(pictures)
    for found, expected in zip(ours, theirs, strict=True):
        assert found is not None
        assert expected is not None
        assert found.outcome == expected.outcome
        assert found.score == pytest.approx(expected.score, rel=1e-3)


def test_fit_works_with_it_and_says_so(
    good_parts: list[Path], open_openvino: OpenOpenVino, make_extractor: MakeExtractor
) -> None:
    made = fit(good_parts, open_openvino(), parts.settings()).bank
    assert made.manifest.libraries["engine"].startswith("openvino ")
    assert made.manifest.libraries["engine"].endswith(", float32")
    Inspector(make_extractor(), made).inspect([parts.draw_part(np.random.default_rng(0))])


def test_another_network_in_the_cache_is_refused(
    bank: MemoryBank, open_openvino: OpenOpenVino, make_extractor: MakeExtractor, tmp_path: Path
) -> None:
    honest = open_openvino()
    forged = tmp_path / honest.exported.name
    export(make_extractor(weights="random:8"), forged, "onnx")
    sidecar = json.loads(sidecar_path(forged).read_text())
    sidecar["identity"]["weights_digest"] = honest.identity.weights_digest
    sidecar_path(forged).write_text(json.dumps(sidecar))
    with pytest.raises(ParityError, match=r"openvino .* deviates from the reference on bank part/"):
        Inspector(open_openvino(folder=tmp_path), bank).check_parity()


def test_a_damaged_network_in_the_cache_is_made_anew(
    bank: MemoryBank, open_openvino: OpenOpenVino, tmp_path: Path
) -> None:
    honest = open_openvino()
    damaged = tmp_path / honest.exported.name
    data = bytearray(honest.exported.read_bytes())
    data[len(data) // 2] ^= 0xFF
    damaged.write_bytes(data)
    sidecar_path(damaged).write_bytes(sidecar_path(honest.exported).read_bytes())
    Inspector(open_openvino(folder=tmp_path), bank).check_parity()
    assert damaged.read_bytes() != bytes(data)


SECOND_START = """
import sys
from pathlib import Path
import numpy as np
from patchcore_engine.runtime import prepare_process
prepare_process()
from patchcore_engine.backbones.factory import open_extractor
from patchcore_engine.images import Geometry
extractor = open_extractor(
    backbone="resnet18", weights="random:7", geometry=Geometry(resize=72, image_size=64), batch_sizes=(1,),
    engine="openvino", precision_hint="float32", cache_dir=Path(sys.argv[1]),
)
np.save(sys.argv[2], extractor.embed(np.load(sys.argv[3])))
assert "mindspore" not in sys.modules
"""


def test_a_second_start_takes_the_cache_and_never_loads_mindspore(
    cache_dir: Path, open_openvino: OpenOpenVino, tmp_path: Path
) -> None:
    first = open_openvino()
    expected = first.embed(IMAGES[:1])
    before = {file: file.stat().st_mtime_ns for file in cache_dir.rglob("*") if file.is_file()}
    assert any(file.parent.name == "compiled" for file in before)
    np.save(tmp_path / "images.npy", IMAGES[:1])
    subprocess.run(
        [sys.executable, "-c", SECOND_START, str(cache_dir), str(tmp_path / "out.npy"), str(tmp_path / "images.npy")],
        check=True,
        timeout=120,
    )
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=1e-5)
    assert {file: file.stat().st_mtime_ns for file in cache_dir.rglob("*") if file.is_file()} == before


def test_it_may_be_made_in_one_thread_and_used_in_another(open_openvino: OpenOpenVino) -> None:
    extractor = open_openvino()
    expected, found = extractor.embed(IMAGES), []
    thread = threading.Thread(target=lambda: found.append(extractor.embed(IMAGES)))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0], expected)


def test_the_daemon_serves_with_it_when_the_bank_agrees(bank: MemoryBank, cache_dir: Path, tmp_path: Path) -> None:
    bank_store.activate(tmp_path, "part", bank_store.save(bank, tmp_path, "part").name)
    settings = parse_settings(
        f'[engine]\nengine = "openvino"\nprecision_hint = "float32"\nweights = "random:7"\nbatch_sizes = [1]\n'
        f'cache_dir = "{cache_dir}"\n[banks]\ndir = "{tmp_path}"\n[recipes.part]\nbank = "part"\ncameras = ["*"]\n'
    )
    recipe = load_recipes(settings).recipes["part"]
    assert isinstance(recipe.inspector.extractor, OpenVinoExtractor)
    with structlog.testing.capture_logs() as logged:
        recipe.rehearse()
    assert [entry["engine"] for entry in logged] == [recipe.inspector.extractor.engine]


def test_the_daemon_says_which_recipe_it_cant_serve(bank: MemoryBank, cache_dir: Path, tmp_path: Path) -> None:
    assert bank.parity is not None
    other = bank.with_parity(type(bank.parity)(bank.parity.pixels, bank.parity.distances, bank.parity.scores * 1.1))
    path = bank_store.save(other, tmp_path, "part")
    settings = parse_settings(
        f'[engine]\nengine = "openvino"\nprecision_hint = "float32"\nweights = "random:7"\nbatch_sizes = [1]\n'
        f'cache_dir = "{cache_dir}"\n[recipes.lids]\nbank = "{path}"\ncameras = ["*"]\n'
    )
    recipe = load_recipes(settings).recipes["lids"]
    with pytest.raises(ParityError, match=r"^recipes\.lids: openvino "):
        recipe.rehearse()


def test_bfloat16_is_taken_where_the_processor_has_it(open_openvino: OpenOpenVino) -> None:
    if "BF16" in openvino_extractor._open_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        extractor = open_openvino(hint="bfloat16")
        assert extractor.engine.endswith("bfloat16")
        exact, rounded = open_openvino().embed(IMAGES), extractor.embed(IMAGES)
        difference = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
        assert 0 < difference < 0.05
    else:
        with pytest.raises(DeviceError, match="bfloat16"):
            open_openvino(hint="bfloat16")


def test_kernels_rounded_to_bfloat16_keep_their_sums() -> None:
    kernels = np.random.RandomState(0).normal(size=(50, 27)).astype(np.float32)
    rounded = bfloat16.keep_sums(kernels)
    np.testing.assert_array_equal(bfloat16.nearest(rounded), rounded)
    np.testing.assert_allclose(rounded, kernels, rtol=2**-6, atol=2**-7)
    kept, plain = (np.abs((k - kernels).sum(axis=1)).mean() for k in (rounded, bfloat16.nearest(kernels)))
    assert kept < plain / 20


def test_a_missing_openvino_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_extractor, "find_spec", lambda _name: None)
    with pytest.raises(DeviceError, match=r"pip install 'patchline\[openvino\]'"):
        openvino_extractor._open_core.__wrapped__()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "Ascend"}, "runs on the CPU"),
        ({"precision": "float16"}, "float32 networks"),
        ({"backbone_file": Path("net.mindir")}, "leave backbone_file out"),
    ],
)
def test_settings_that_it_cant_follow_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        open_extractor(backbone="resnet18", weights="random:7", engine="openvino", **settings)  # type: ignore[arg-type]
