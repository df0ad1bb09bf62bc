"""The JSON file beside an exported network that says what it is."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from patchcore_engine.backbones.extractor import ExtractorIdentity
from patchcore_engine.errors import DigestMismatchError, WeightsFormatError, WeightsMissingError

FORMAT_VERSION: Final = 1
_LONGEST_SHOWN: Final = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Sidecar:
    """What an exported network computes, and the SHA-256 (hex) of its file.

    `grid`: patches down and across.  `resize`: of the geometry it is meant for, in pixels.
    `versions`: of the libraries that made it.
    """

    identity: ExtractorIdentity
    resize: int
    grid: tuple[int, int]
    dimension: int
    sha256: str
    versions: Mapping[str, str] = field(default_factory=dict)


def sidecar_path(network: Path) -> Path:
    """Return where the sidecar of the exported file `network` lies: its name with `.json` added."""
    return network.with_name(f"{network.name}.json")


def write_sidecar(network: Path, sidecar: Sidecar) -> None:
    """Write `sidecar` beside `network`."""
    content = {"format_version": FORMAT_VERSION, **asdict(sidecar)}
    sidecar_path(network).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_sidecar(network: Path) -> Sidecar:
    """Read the sidecar of `network` and check the file against it.

    Raises WeightsMissingError where either is missing, WeightsFormatError where the sidecar can't be used, and
    DigestMismatchError where the file isn't the one that was exported.
    """
    path = sidecar_path(network)
    for needed in (network, path):
        if not needed.is_file():
            raise WeightsMissingError(f"There is no file {needed}. Make it with: patchline export --format mindir")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.pop("format_version")
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise WeightsFormatError(f"{path} isn't the description of an exported network.") from error
    if version != FORMAT_VERSION:
        raise WeightsFormatError(
            f"{path} has format version {str(version)[:_LONGEST_SHOWN]}; this program reads {FORMAT_VERSION}."
        )
    try:
        sidecar = _parse(content)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise WeightsFormatError(f"{path} isn't the description of an exported network.") from error
    if file_sha256(network) != sidecar.sha256:
        raise DigestMismatchError(f"{network} isn't the file that {path.name} describes. Export it again.")
    return sidecar


def file_sha256(path: Path) -> str:
    """Return the SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parse(content: dict[str, Any]) -> Sidecar:
    identity = ExtractorIdentity(**content.pop("identity"))
    rows, columns = content.pop("grid")
    sidecar = Sidecar(identity=identity, grid=(int(rows), int(columns)), **content)
    texts = (identity.backbone, identity.weights_digest, identity.embedding, identity.precision, sidecar.sha256)
    counts = (identity.image_size, sidecar.resize, sidecar.dimension, *sidecar.grid)
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(n, int) and n > 0 for n in counts):
        raise TypeError("a field has another type")
    return sidecar
