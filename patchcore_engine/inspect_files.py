"""Judge picture files one batch after another, and write their heat maps."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from patchcore_engine.errors import DataError, GeometryError, NoPicturesError
from patchcore_engine.frame_overlay import frame_overlay
from patchcore_engine.images import encode_png, list_pictures, read
from patchcore_engine.inspector import Inspection, Inspector
from patchcore_engine.path_text import path_text

_NO_NUMBER = "The score is no number: check the weights and the picture."


@dataclass(frozen=True, slots=True)
class InspectedFile:
    """One picture file's verdict, or why it has none. `overlay`: the file its heat map was written to."""

    path: Path
    inspection: Inspection | None
    error: str = ""
    overlay: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the verdict as values that JSON can hold, without the map."""
        found = self.inspection
        if found is None:
            return {"picture": str(self.path), "verdict": "not_inspected", "error": self.error}
        return {
            "picture": str(self.path),
            "verdict": found.outcome,
            "score": found.score,
            "p_value": found.p_value,
            "regions": [asdict(region) for region in found.regions],
            "overlay": None if self.overlay is None else str(self.overlay),
        }


def pictures_in(paths: Sequence[Path]) -> list[Path]:
    """Return `paths` with each folder replaced by the pictures in it. Raises NoPicturesError."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = list_pictures(path)
            if not inside:
                raise NoPicturesError(f"{path} holds no pictures (.png, .jpg, .bmp, .tif or .webp).")
            found += inside
        else:
            found.append(path)
    return found


def inspect_files(inspector: Inspector, paths: Sequence[Path], output: Path | None = None) -> Iterator[InspectedFile]:
    """Judge each picture and yield its verdict; one that can't be read is yielded with its error.

    With `output`, each picture is written there as PNG with its heat map over it. Raises DataError when that fails, and
    before the first picture where `check_output` does.
    """
    if output is not None:
        check_output(output, paths)
    taken: set[str] = set()
    for path in paths:
        try:
            image = read(path)
            inspection = inspector.inspect([image])[0]
        except DataError as error:
            yield InspectedFile(path, None, str(error))
            continue
        except GeometryError as error:
            yield InspectedFile(path, None, f"{path_text(path)}: {error}")
            continue
        if inspection is None:
            yield InspectedFile(path, None, _NO_NUMBER)
            continue
        target = None
        if output is not None:
            target = output / _free_name(path, taken)
            shown = frame_overlay(image, inspection, inspector.heat_levels(inspection))
            _write(target, encode_png(shown))
        yield InspectedFile(path, inspection, overlay=target)


def check_output(output: Path, paths: Sequence[Path]) -> None:
    """Raise DataError where one of `paths`, or the file that it links to, lies in `output`: it might be overwritten."""
    homes = {home for path in paths for home in (path.parent, path.resolve().parent)}
    if output.is_dir() and any(home.is_dir() and home.samefile(output) for home in homes):
        raise DataError(f"{output} holds pictures to inspect: name another folder for the heat maps.")


def _write(target: Path, data: bytes) -> None:
    """Write a file, whole or not at all; a link of its name is replaced, not followed. Raises DataError."""
    partial = target.with_name(f".{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise DataError(f"{path_text(target)} can't be written: {error.strerror}.") from error


def _free_name(path: Path, taken: set[str]) -> str:
    """Return a file name for the overlay of `path`; pictures of one name from several folders don't collide."""
    candidates = (f"{path.stem}.png", f"{path.resolve().parent.name}-{path.stem}.png")
    count = 2
    name = next((c for c in candidates if c not in taken), "")
    while not name or name in taken:
        name, count = f"{path.resolve().parent.name}-{path.stem}-{count}.png", count + 1
    taken.add(name)
    return name
