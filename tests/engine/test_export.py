"""Exported networks: the same distances, or no file."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from patchcore_engine.backbones import export as export_module
from patchcore_engine.backbones.export import MAX_DEVIATION, ExportFormat, distance_deviation, export
from patchcore_engine.backbones.factory import open_extractor
from patchcore_engine.backbones.mindspore_extractor import MindIRExtractor
from patchcore_engine.backbones.sidecar import file_sha256, read_sidecar, sidecar_path
from patchcore_engine.errors import (
    DeviceError,
    DigestMismatchError,
    ExportError,
    WeightsFormatError,
    WeightsMissingError,
)
from patchcore_engine.images import Geometry
from tests.engine.conftest import MakeExtractor

IMAGES = np.random.RandomState(5).randint(0, 256, (4, 64, 64, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def mindir(make_extractor: MakeExtractor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "net.mindir"
    export(make_extractor(), path, "mindir")
    return path


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "efficientnet_lite0"])
@pytest.mark.parametrize("embedding", ["paper", "modelzoo"])
def test_a_mindir_gives_the_same_distances(
    backbone: str, embedding: str, make_extractor: MakeExtractor, tmp_path: Path
) -> None:
    extractor = make_extractor(backbone, "random:7", 72, embedding, (1, 4))
    exported = export(extractor, tmp_path / "net.mindir", "mindir")
    assert exported.deviation is not None
    assert exported.deviation <= MAX_DEVIATION
    loaded = MindIRExtractor(exported.path, batch_sizes=(1, 4))
    assert distance_deviation(extractor.embed, loaded.embed, 72) <= MAX_DEVIATION


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_lite0"])
def test_an_onnx_file_gives_the_same_distances_at_any_batch_size(
    backbone: str, make_extractor: MakeExtractor, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime isn't installed")
    extractor = make_extractor(backbone, "random:7", 72, "paper", (1, 4))
    exported = export(extractor, tmp_path / "net.onnx", "onnx")
    session = onnxruntime.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    assert exported.deviation is not None
    assert distance_deviation(extractor.embed, lambda x: session.run(None, {name: x})[0], 72) <= MAX_DEVIATION
    one = session.run(None, {name: np.zeros((1, 72, 72, 3), np.uint8)})[0]
    assert one.shape == (1, 81, extractor.dimension)


@pytest.mark.parametrize("format_", ["mindir", "onnx"])
def test_folders_and_files_may_be_named_in_any_way(
    format_: ExportFormat, make_extractor: MakeExtractor, tmp_path: Path
) -> None:
    """MindSpore refuses spaces and umlauts where it writes."""
    exported = export(
        make_extractor(weights="random:9"), tmp_path / "Linie 3, geprüft" / f"Netz (neu).{format_}", format_
    )
    assert exported.deviation is not None
    assert sorted(exported.path.parent.iterdir()) == sorted([exported.path, exported.sidecar])


def test_a_mindir_runs_without_weights_and_tells_the_same_identity(mindir: Path, make_extractor: MakeExtractor) -> None:
    extractor = make_extractor()
    loaded = open_extractor(
        backbone="resnet18", backbone_file=mindir, geometry=Geometry(resize=64, image_size=64), batch_sizes=(1, 2, 4)
    )
    assert loaded.identity == extractor.identity
    assert (loaded.grid, loaded.dimension, loaded.batch_sizes) == ((8, 8), 384, (1, 2, 4))
    for count in (1, 3, 4):
        np.testing.assert_allclose(loaded.embed(IMAGES[:count]), extractor.embed(IMAGES[:count]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "other",
    [
        {"backbone": "resnet50"},
        {"embedding": "modelzoo"},
        {"geometry": Geometry(resize=96, image_size=64)},
    ],
    ids=["backbone", "embedding", "geometry"],
)
def test_settings_that_ask_for_another_network_are_refused(other: dict[str, object], mindir: Path) -> None:
    with pytest.raises(WeightsFormatError, match="the settings ask for another"):
        open_extractor(**{"backbone": "resnet18", "backbone_file": mindir, **other})  # type: ignore[arg-type]


def test_the_sidecar_holds_the_digest_and_geometry(mindir: Path, make_extractor: MakeExtractor) -> None:
    sidecar = read_sidecar(mindir)
    assert sidecar.sha256 == file_sha256(mindir)
    assert sidecar.identity == make_extractor().identity
    assert (sidecar.resize, sidecar.grid, sidecar.dimension) == (64, (8, 8), 384)
    assert set(sidecar.versions) == {"mindspore", "numpy"}


def copy_of(mindir: Path, folder: Path) -> Path:
    copy = folder / mindir.name
    copy.write_bytes(mindir.read_bytes())
    sidecar_path(copy).write_bytes(sidecar_path(mindir).read_bytes())
    return copy


def test_a_changed_or_lonely_file_is_refused(mindir: Path, tmp_path: Path) -> None:
    copy = copy_of(mindir, tmp_path)
    content = bytearray(copy.read_bytes())
    content[len(content) // 2] ^= 1
    copy.write_bytes(content)
    with pytest.raises(DigestMismatchError, match="Export it again"):
        MindIRExtractor(copy)
    sidecar_path(copy).unlink()
    with pytest.raises(WeightsMissingError, match=r"net\.mindir\.json"):
        MindIRExtractor(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format version 2"),
        ({"grid": "8"}, "isn't the description"),
        ({"dimension": 0}, "isn't the description"),
        ({"identity": {}}, "isn't the description"),
        ({"surplus": 1}, "isn't the description"),
    ],
)
def test_a_sidecar_of_another_make_is_refused(
    change: dict[str, object], message: str, mindir: Path, tmp_path: Path
) -> None:
    copy = copy_of(mindir, tmp_path)
    content = json.loads(sidecar_path(copy).read_text())
    sidecar_path(copy).write_text(json.dumps(content | change))
    with pytest.raises(WeightsFormatError, match=message):
        read_sidecar(copy)
    sidecar_path(copy).write_text("[]")
    with pytest.raises(WeightsFormatError):
        read_sidecar(copy)


def test_a_file_that_is_no_network_is_refused(mindir: Path, tmp_path: Path) -> None:
    copy = copy_of(mindir, tmp_path)
    copy.write_bytes(b"not a network")
    content = json.loads(sidecar_path(copy).read_text())
    sidecar_path(copy).write_text(json.dumps(content | {"sha256": file_sha256(copy)}))
    with pytest.raises(WeightsFormatError, match="can't be loaded"):
        MindIRExtractor(copy)


def test_half_precision_exports_need_an_npu(mindir: Path, tmp_path: Path) -> None:
    copy = copy_of(mindir, tmp_path)
    content = json.loads(sidecar_path(copy).read_text())
    content["identity"]["precision"] = "float16"
    sidecar_path(copy).write_text(json.dumps(content))
    with pytest.raises(DeviceError, match="Ascend"):
        MindIRExtractor(copy)


def test_a_network_that_deviates_is_not_left_behind(
    make_extractor: MakeExtractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_extractor(weights="random:8")
    write = export_module._write_mindir
    monkeypatch.setattr(export_module, "_write_mindir", lambda extractor, file: write(other, file))
    with pytest.raises(ExportError, match="deviates"):
        export(make_extractor(), tmp_path / "net.mindir", "mindir")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_gives_no_numbers_deviates_infinitely(make_extractor: MakeExtractor) -> None:
    embed = make_extractor().embed
    assert distance_deviation(embed, lambda images: embed(images) * np.nan, 64) == float("inf")
    assert distance_deviation(embed, lambda images: embed(images)[:1], 64) == float("inf")
    assert distance_deviation(embed, embed, 64) == 0


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_onnx_says_which_package_it_lacks(
    missing: str, make_extractor: MakeExtractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx", reason="onnx isn't installed")
    find = importlib.util.find_spec
    monkeypatch.setattr(export_module, "find_spec", lambda name: None if name == missing else find(name))
    if missing == "onnx":
        with pytest.raises(ExportError, match=r"pip install 'patchline\[onnx\]'"):
            export(make_extractor(), tmp_path / "net.onnx", "onnx")
    else:
        exported = export(make_extractor(), tmp_path / "net.onnx", "onnx")
        assert exported.deviation is None
        assert "onnxruntime" in (exported.unchecked or "")


def test_the_files_name_must_tell_its_format(make_extractor: MakeExtractor, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"must end in \.onnx"):
        export(make_extractor(), tmp_path / "net.mindir", "onnx")


def test_a_folder_that_cant_be_written_is_a_plain_error(make_extractor: MakeExtractor, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="can't be written"):
        export(make_extractor(), tmp_path / "file" / "net.mindir", "mindir")
