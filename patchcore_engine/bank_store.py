"""Banks on disk: `<banks>/<recipe>/<version>/`, a link `active`, and nothing half written.

A version's name is the UTC time of its making and the first 8 hex digits of its manifest's digest.
"""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from patchcore_engine.bank import MANIFEST, REPORT, MemoryBank
from patchcore_engine.errors import BankError, BankMissingError, BankWriteError
from patchcore_engine.manifest import Manifest

ACTIVE: Final = "active"
_VERSION = re.compile(r"^\d{8}T\d{6}Z-[0-9a-f]{8}$")
_RECIPE = re.compile(r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}$")
_PARTIAL_PREFIX: Final = ".partial-"


@dataclass(frozen=True, slots=True)
class BankEntry:
    """One version of a recipe's bank, as `list_versions` finds it."""

    recipe: str
    version: str
    path: Path
    active: bool


def save(bank: MemoryBank, banks: Path, recipe: str, report: Callable[[str], str] | None = None) -> Path:
    """Write `bank` as a new version of `recipe` and return its folder. It is there whole or not at all.

    `report`: makes the HTML of the report beside the bank, told the version's name. The files and their folder are
    synced before the folder gets its name. Raises BankWriteError, and what `report` raises.
    """
    check_recipe(recipe)
    files = bank.files()
    manifest = Manifest.parse(files[MANIFEST])
    version = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{manifest.version_suffix}"
    if report is not None:
        files[REPORT] = report(version).encode()
    home = banks / recipe
    partial: Path | None = None
    try:
        home.mkdir(parents=True, exist_ok=True)
        _sweep_partials(home)
        partial = Path(tempfile.mkdtemp(prefix=f"{_PARTIAL_PREFIX}{os.getpid()}-", dir=home))
        partial.chmod(0o755)
        for name, data in files.items():
            _write_synced(partial / name, data)
        _sync_folder(partial)
        if not (home / version).exists():
            partial.rename(home / version)
        _sync_folder(home)
    except OSError as error:
        raise BankWriteError(
            f"The bank can't be written to {home}: {error.strerror}. Nothing was left there."
        ) from error
    finally:
        if partial is not None and partial.exists():
            shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):
            # A recipe's folder that is still empty was made for this bank alone.
            home.rmdir()
    return home / version


def resolve(path: Path) -> Path:
    """Return the folder of one version: `path` itself, or the active version when `path` is a recipe's folder.

    Raises BankMissingError.
    """
    # A link that is moved while the bank is read must not mix two versions.
    path = path.resolve()
    if (path / MANIFEST).is_file():
        return path
    active = path / ACTIVE
    if active.is_symlink():
        # A link to anywhere else would let another recipe's bank judge these parts.
        target = Path(os.path.abspath(path / os.readlink(active)))  # noqa: PTH100, PTH115  (no link but this is followed)
        if target.parent == path.absolute() and _VERSION.fullmatch(target.name) and (target / MANIFEST).is_file():
            return target.resolve()
        raise BankMissingError(f"{active} points to {target}, which is no bank of this recipe: activate another.")
    if path.is_dir() and any(_VERSION.fullmatch(entry.name) for entry in path.iterdir()):
        raise BankMissingError(f"{path} has no active version: choose one with `patchline bank activate`.")
    raise BankMissingError(f"{path} holds no memory bank: make one with `patchline fit`.")


def version_folder(banks: Path, recipe: str, version: str | None = None) -> Path:
    """Return the folder of a recipe's version, the active one by default. Raises BankError for names that are none."""
    check_recipe(recipe)
    if version is None:
        return resolve(banks / recipe)
    if not _VERSION.fullmatch(version):
        raise BankMissingError(f"{version!r} is no version of a bank: `patchline bank list` shows them.")
    return resolve(banks / recipe / version)


def recipes(banks: Path) -> list[str]:
    """Return the names of all recipes under `banks` that have at least one version."""
    if not banks.is_dir():
        return []
    names = sorted(home.name for home in banks.iterdir() if _is_recipe(home.name))
    return [name for name in names if list_versions(banks, name)]


def list_versions(banks: Path, recipe: str) -> list[BankEntry]:
    """Return the versions of `recipe`, oldest first."""
    check_recipe(recipe)
    home = banks / recipe
    if not home.is_dir():
        return []
    active = active_version(home)
    names = sorted(entry.name for entry in home.iterdir() if _VERSION.fullmatch(entry.name) and entry.is_dir())
    return [BankEntry(recipe, name, home / name, name == active) for name in names]


def active_version(home: Path) -> str | None:
    """Return the name that `active` points to, or None."""
    try:
        return Path(os.readlink(home / ACTIVE)).name  # noqa: PTH115  (Path.readlink would need the same care)
    except OSError:
        return None


def activate(banks: Path, recipe: str, version: str) -> Path:
    """Make `version` the active one, atomically, after it was loaded and verified. Raises BankError."""
    folder = banks / recipe / version
    if version not in {entry.version for entry in list_versions(banks, recipe)}:
        raise BankMissingError(f"{recipe} has no version {version}: `patchline bank list` shows them.")
    MemoryBank.load(folder)
    link = folder.parent / f".{ACTIVE}-{os.getpid()}"
    try:
        link.unlink(missing_ok=True)
        link.symlink_to(version)
        link.replace(folder.parent / ACTIVE)
        _sync_folder(folder.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            link.unlink(missing_ok=True)
        raise BankWriteError(f"{folder.parent / ACTIVE} can't be changed: {error.strerror}.") from error
    return folder


def discard(banks: Path, recipe: str, version: str) -> None:
    """Remove a version that isn't the active one, and its recipe's folder if that is empty then."""
    home = banks / recipe
    if active_version(home) == version:
        return
    partial = home / f"{_PARTIAL_PREFIX}{os.getpid()}-{version}"
    with contextlib.suppress(OSError):
        # No half of it may be taken for a version.
        (home / version).rename(partial)
        shutil.rmtree(partial)
        home.rmdir()


def rollback(banks: Path, recipe: str) -> Path:
    """Activate the version before the active one. Raises BankError."""
    versions = [entry.version for entry in list_versions(banks, recipe)]
    active = active_version(banks / recipe)
    if active not in versions:
        raise BankMissingError(f"{recipe} has no active version to go back from.")
    position = versions.index(active)
    if position == 0:
        raise BankError(f"{active} is the oldest version of {recipe}: there is none to go back to.")
    return activate(banks, recipe, versions[position - 1])


def check_recipe(recipe: str) -> None:
    """Raise BankError when `recipe` is no name for a folder."""
    if not _is_recipe(recipe):
        raise BankError(
            f"{recipe!r} is no name for a recipe: 1 to 64 letters, digits, '_', '-' and '.', not starting with '.'."
        )


def _is_recipe(name: str) -> bool:
    return _RECIPE.fullmatch(name) is not None and name != ACTIVE


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep_partials(home: Path) -> None:
    """Remove what fits that were killed left behind; a running fit's folder stays."""
    for leftover in home.glob(f"{_PARTIAL_PREFIX}*"):
        process = leftover.name.removeprefix(_PARTIAL_PREFIX).split("-")[0]
        with contextlib.suppress(OSError):
            if not (process.isdigit() and Path(f"/proc/{process}").exists()):
                shutil.rmtree(leftover)
