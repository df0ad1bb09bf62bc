"""The archive on disk: of each part the original, its overlay and the verdict, in a folder of its day and recipe.

`<dir>/<YYYY-MM-DD>/<recipe>/<camera>-<stream>-<seq>-<verdict>.png` or `.jpg`, `...-overlay.png`, `....json`. A file is
written whole or not at all, and parts are taken away oldest first.
"""

import json
import re
import shutil
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from daemon.errors import ArchiveError
from daemon.file_names import safe_name
from daemon.messages import FrameHeader, Verdict
from daemon.retention import Retention
from patchcore_engine.errors import PatchcoreError

PARTIAL_SUFFIX: Final = ".partial"
# The archive may share its disk with the journal, which matters more.
LEAST_FREE_BYTES: Final = 256 * 2**20
TIDY_ENTRIES: Final = 256
NO_RECIPE: Final = "_"

_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_OURS: Final = re.compile(
    r"(?P<part>.+-\d+-\d+-(?:pass|review|fail|not_inspected))(?:-overlay)?\.(?:png|jpg|json)", re.ASCII
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchivedPart:
    """One part as it is to be kept. `payload` is the frame as received; `overlay` draws a PNG when it is called."""

    verdict: Verdict
    header: FrameHeader
    payload: memoryview
    overlay: Callable[[], bytes] | None


class ArchiveFolder:
    """Writes parts below `root` and keeps it within its retention. For one thread; raises ArchiveError."""

    def __init__(self, root: Path, retention: Retention) -> None:
        self._root = root
        self._retention = retention
        self._bytes: dict[str, int] = defaultdict(int)
        self._oldest: deque[tuple[float, list[Path]]] = deque()
        self._oldest_day: str | None = None
        self._survey: Iterator[None] | None = self._look_around()
        self._written_since: set[Path] = set()

    @property
    def size_bytes(self) -> int:
        """Bytes of all files; what lay there at the start is added as `tidy` finds it."""
        return sum(list(self._bytes.values()))

    def write(self, part: ArchivedPart) -> None:
        """Write original, overlay and verdict, the verdict last. Raises ArchiveError, and then leaves none of them."""
        verdict = part.verdict
        day = _day(verdict.received_ns)
        folder = self._root / day / safe_name(verdict.recipe or NO_RECIPE)
        written: list[Path] = []
        size = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(folder).free < LEAST_FREE_BYTES + part.payload.nbytes:
                raise ArchiveError(
                    f"The disk of the archive {self._root} has less than {LEAST_FREE_BYTES // 2**20} MiB left."
                )
            for suffix, data in _files(part):
                path = folder / (_stem(verdict) + suffix)
                size += _replaced_by(data, path)
                written.append(path)
        except (OSError, ValueError, PatchcoreError) as error:
            _remove(written)
            raise ArchiveError(f"A part can't be archived in {self._root}: {error}.") from error
        self._bytes[day] += size
        if self._survey is not None:
            self._written_since.update(written)

    def tidy(self, now_ns: int) -> bool:
        """Do a little of what is due: look at files that lay here before, or take away old ones.

        Returns whether more is due at once. `now_ns`: Unix time. Raises ArchiveError.
        """
        try:
            if self._survey is not None:
                if next(self._survey, self) is self:
                    self._survey = None
                    self._written_since.clear()
                return True
            return self._take_away(now_ns)
        except OSError as error:
            raise ArchiveError(f"The archive {self._root} can't be tidied: {error}.") from error

    def _look_around(self) -> Iterator[None]:
        """Add up what lies here, TIDY_ENTRIES at a time, and remove what a crash left half written."""
        seen = 0
        for day in self._days():
            for path in _files_below(self._root / day):
                if path.name.endswith(PARTIAL_SUFFIX):
                    path.unlink(missing_ok=True)
                elif _OURS.fullmatch(path.name) and path not in self._written_since:
                    with suppress(FileNotFoundError):
                        self._bytes[day] += path.stat().st_size
                seen += 1
                if seen % TIDY_ENTRIES == 0:
                    yield

    def _take_away(self, now_ns: int) -> bool:
        cutoff_ns, max_bytes = self._retention.cutoff_ns(now_ns), self._retention.max_bytes
        if not self._oldest and not self._list_oldest_day():
            return False
        removed = 0
        while self._oldest and removed < TIDY_ENTRIES:
            modified_s, files = self._oldest[0]
            expired = cutoff_ns is not None and modified_s * 1e9 < cutoff_ns
            if not expired and (max_bytes is None or self.size_bytes <= max_bytes):
                # What was written since the day was listed is younger than all of the list.
                return False
            self._oldest.popleft()
            for path in files:
                with suppress(FileNotFoundError):
                    size = path.stat().st_size
                    path.unlink()
                    self._bytes[self._oldest_day or ""] -= size
                removed += 1
        return True

    def _list_oldest_day(self) -> bool:
        """List the parts of the oldest day that has any, oldest first; remove days that are empty."""
        for day in self._days():
            parts: dict[Path, list[Path]] = defaultdict(list)
            modified_s: dict[Path, float] = {}
            for path in _files_below(self._root / day):
                match = _OURS.fullmatch(path.name)
                if match is None:
                    continue
                key = path.parent / match["part"]
                with suppress(FileNotFoundError):
                    modified_s[key] = max(path.stat().st_mtime, modified_s.get(key, 0.0))
                    parts[key].append(path)
            if parts:
                self._oldest_day = day
                self._oldest.extend((modified_s[key], parts[key]) for key in sorted(parts, key=modified_s.__getitem__))
                return True
            self._bytes.pop(day, None)
            if day != _day(None):
                _remove_empty(self._root / day)
        return False

    def _days(self) -> list[str]:
        if not self._root.is_dir():
            return []
        return sorted(entry.name for entry in self._root.iterdir() if _DAY.fullmatch(entry.name) and _is_folder(entry))


def archived_files(root: Path, verdict: Verdict) -> list[Path]:
    """Return what the archive at `root` holds of a part: original, overlay, verdict; nothing if it isn't kept."""
    found: list[Path] = []
    # The archive's days are those of the daemon's time zone, which may not be the reader's.
    for days in (0, -1, 1):
        day = _day(verdict.received_ns, timedelta(days=days))
        stem = root / day / safe_name(verdict.recipe or NO_RECIPE) / _stem(verdict)
        names = (stem.with_name(stem.name + suffix) for suffix in (".png", ".jpg", "-overlay.png", ".json"))
        found += [path for path in names if path.is_file()]
    return found


def _files(part: ArchivedPart) -> Iterator[tuple[str, bytes | memoryview]]:
    """Yield each file's suffix and content."""
    header = part.header
    match header.encoding:
        case "raw":
            yield ".png", _png(header, part.payload)
        case "png":
            yield ".png", part.payload
        case "jpeg":
            yield ".jpg", part.payload
    if part.overlay is not None:
        yield "-overlay.png", part.overlay()
    frame = header.model_dump(mode="json", include={"encoding", "shape", "dtype", "color", "bits"}, exclude_none=True)
    document: dict[str, Any] = {**part.verdict.to_map(), "frame": frame}
    yield ".json", json.dumps(document, indent=2).encode()


def _png(header: FrameHeader, payload: memoryview) -> bytes:
    """Encode a raw frame without loss, 16-bit values as they are."""
    from patchcore_engine.images import encode_png

    dtype = np.dtype(np.uint8) if header.dtype == "u1" else np.dtype(np.uint16).newbyteorder("<")
    pixels = np.frombuffer(payload, dtype=dtype).reshape(header.shape or (-1,))
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if header.color == "bgr":
        pixels = pixels[:, :, ::-1]
    native = np.ascontiguousarray(pixels, dtype=dtype.newbyteorder("="))
    return encode_png(cast("NDArray[np.uint8]", native))


def _replaced_by(data: bytes | memoryview, path: Path) -> int:
    """Write a file whole or not at all; return by how many bytes the folder grew."""
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    try:
        before = path.stat().st_size if path.exists() else 0
        partial.write_bytes(data)
        partial.replace(path)
    except OSError:
        _remove([partial])
        raise
    return len(data) - before


def _stem(verdict: Verdict) -> str:
    return f"{safe_name(verdict.camera)}-{verdict.stream}-{verdict.seq}-{verdict.verdict.value}"


def _day(time_ns: int | None, shift: timedelta = timedelta()) -> str:
    """Return the local date of a Unix time, or today's."""
    moment = datetime.now() if time_ns is None else datetime.fromtimestamp(time_ns / 1e9)
    return (moment + shift).strftime("%Y-%m-%d")


def _files_below(day: Path) -> Iterator[Path]:
    for recipe in sorted(day.iterdir()):
        if _is_folder(recipe):
            yield from (path for path in recipe.iterdir() if path.is_file() and not path.is_symlink())


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _remove(paths: list[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _remove_empty(day: Path) -> None:
    for folder in (*(path for path in day.iterdir() if _is_folder(path)), day):
        with suppress(OSError):
            folder.rmdir()
