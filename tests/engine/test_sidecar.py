"""The description of an exported network: whatever the file holds, it is a sidecar or one of the engine's errors."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patchcore_engine.backbones.extractor import ExtractorIdentity
from patchcore_engine.backbones.sidecar import Sidecar, file_sha256, read_sidecar, sidecar_path, write_sidecar
from patchcore_engine.errors import WeightsError, WeightsFormatError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
IDENTITY = {"backbone": "b", "weights_digest": "d", "embedding": "paper", "image_size": 64, "precision": "float32"}


@pytest.fixture
def network(tmp_path: Path) -> Path:
    path = tmp_path / "net.mindir"
    path.write_bytes(b"a network")
    identity = ExtractorIdentity(**IDENTITY)  # type: ignore[arg-type]
    sidecar = Sidecar(identity=identity, resize=72, grid=(8, 8), dimension=192, sha256=file_sha256(path))
    write_sidecar(path, sidecar)
    assert read_sidecar(path) == sidecar
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_value_in_any_place_is_a_sidecar_or_an_error(network: Path, data: st.DataObject) -> None:
    path = sidecar_path(network)
    intact = path.read_text()
    content = json.loads(intact)
    part = data.draw(st.sampled_from([content, content["identity"]]))
    part[data.draw(st.sampled_from([*part, "more"]))] = data.draw(VALUES)
    path.write_text(json.dumps(content))
    with contextlib.suppress(WeightsError):
        read_sidecar(network)
    path.write_text(intact)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"format_version": ' + "9" * 5000 + "}",
        '{"format_version": "' + "x" * 5000 + '"}',
        '{"format_version": 1, "identity": [], "grid": []}',
        '{"format_version": 1, "identity": ' + json.dumps(IDENTITY) + ', "grid": [Infinity, 1]}',
        "{}",
        "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
    ],
    ids=["deep", "long number", "long text", "lists", "infinite", "empty", "half a letter"],
)
def test_a_strange_sidecar_is_refused_in_one_line(text: str, network: Path) -> None:
    sidecar_path(network).write_text(text, encoding="latin-1")
    with pytest.raises(WeightsFormatError) as caught:
        read_sidecar(network)
    assert len(str(caught.value)) < 500
