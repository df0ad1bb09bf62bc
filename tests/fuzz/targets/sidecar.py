"""The JSON beside an exported network: a sidecar, or one of the engine's errors."""

from collections.abc import Iterator
from pathlib import Path

from patchcore_engine.backbones.extractor import ExtractorIdentity
from patchcore_engine.backbones.sidecar import Sidecar, file_sha256, read_sidecar, sidecar_path, write_sidecar
from patchcore_engine.errors import WeightsError
from tests.fuzz.scratch import scratch_folder

_FOLDER = scratch_folder()
_NETWORK = Path(_FOLDER.name) / "net.mindir"
_NETWORK.write_bytes(b"a network")


def seeds() -> Iterator[bytes]:
    identity = ExtractorIdentity(
        backbone="resnet18", weights_digest="0" * 64, embedding="paper", image_size=64, precision="float32"
    )
    sidecar = Sidecar(identity=identity, resize=72, grid=(8, 8), dimension=192, sha256=file_sha256(_NETWORK))
    write_sidecar(_NETWORK, sidecar)
    yield sidecar_path(_NETWORK).read_bytes()


def one_input(data: bytes) -> None:
    sidecar_path(_NETWORK).write_bytes(data)
    try:
        read_sidecar(_NETWORK)
    except WeightsError as error:
        assert len(str(error)) < 500
