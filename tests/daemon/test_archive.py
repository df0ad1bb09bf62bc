import json
import os
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from daemon.archive import Archive
from daemon.archive_folder import ArchivedPart, ArchiveFolder, archived_files
from daemon.config import ArchiveSettings
from daemon.errors import ArchiveError
from daemon.messages import FrameHeader, Verdict
from daemon.outcomes import Outcome, Reason
from daemon.retention import NS_PER_DAY, Retention
from patchcore_engine.images import encode_png
from tests.daemon.journal_writer import verdict

PATIENCE_S = 20.0
NOON_NS = int(datetime(2026, 5, 31, 12).timestamp()) * 10**9
PICTURE = encode_png(np.full((8, 8), 200, np.uint8))
OVERLAY = encode_png(np.full((4, 4, 3), 50, np.uint8))


class Count:
    """Counts calls, and waits for them."""

    def __init__(self) -> None:
        self.calls = 0
        self._changed = threading.Condition()

    def __call__(self) -> None:
        with self._changed:
            self.calls += 1
            self._changed.notify_all()

    def wait_for(self, calls: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.calls >= calls, PATIENCE_S), self.calls


class Kept:
    """An archive and what it counted."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.written, self.dropped = Count(), Count()
        values = ArchiveSettings.model_validate({"enabled": True, "dir": folder, **settings})
        self.archive = Archive(values, on_written=self.written, on_dropped=self.dropped)

    def offer_to_stuck_disk(self, one: Verdict) -> None:
        """Offer a part and return when its overlay is about to be written."""
        drawn = threading.Event()

        def draw() -> bytes:
            drawn.set()
            return OVERLAY

        self.archive.offer(one, header(), memoryview(PICTURE), draw)
        assert drawn.wait(PATIENCE_S)

    def offer(self, one: Verdict, payload: bytes = PICTURE, **fields: object) -> None:
        self.archive.offer(one, header(**fields), memoryview(payload), lambda: OVERLAY)

    def names(self) -> list[str]:
        return names(self.folder)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def header(**fields: object) -> FrameHeader:
    values = {"v": 1, "camera": "left", "seq": 0, "captured_ns": 1, "encoding": "png", **fields}
    return FrameHeader.model_validate(values)


def failed(seq: int = 0, **fields: object) -> Verdict:
    return verdict(seq, **{"verdict": Outcome.FAIL, "received_ns": NOON_NS, "score": 3.0, **fields})


def part(one: Verdict, payload: bytes = PICTURE, overlay: Callable[[], bytes] | None = None) -> ArchivedPart:
    return ArchivedPart(verdict=one, header=header(), payload=memoryview(payload), overlay=overlay)


def test_a_failed_part_is_kept_with_its_overlay_and_its_verdict(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "archive")
    kept.offer(failed(7, part="4711"))
    kept.archive.close(PATIENCE_S)
    stem = "2026-05-31/caps/left-7-7-fail"
    assert kept.names() == [f"{stem}-overlay.png", f"{stem}.json", f"{stem}.png"]
    assert (kept.folder / f"{stem}.png").read_bytes() == PICTURE
    assert (kept.folder / f"{stem}-overlay.png").read_bytes() == OVERLAY
    told = json.loads((kept.folder / f"{stem}.json").read_text())
    assert (told["part"], told["verdict"], told["score"], told["frame"]["encoding"]) == ("4711", "fail", 3.0, "png")
    assert (kept.written.calls, kept.dropped.calls) == (1, 0)
    assert len(archived_files(kept.folder, failed(7))) == 3
    assert archived_files(kept.folder, failed(8)) == []


def test_doubtful_parts_are_kept_and_of_those_that_pass_every_nth(tmp_path: Path) -> None:
    kept = Kept(tmp_path, every_nth_pass=3)
    for seq in range(7):
        kept.offer(failed(seq, verdict=Outcome.PASS))
    kept.offer(failed(7, verdict=Outcome.REVIEW))
    kept.offer(failed(8, verdict=Outcome.NOT_INSPECTED, reason=Reason.SHED))
    kept.archive.close(PATIENCE_S)
    assert [name.split("/")[-1] for name in kept.names() if name.endswith("json")] == [
        "left-7-2-pass.json",
        "left-7-5-pass.json",
        "left-7-7-review.json",
    ]


def test_parts_that_pass_are_not_kept_by_default(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.offer(failed(verdict=Outcome.PASS))
    kept.archive.close(PATIENCE_S)
    assert kept.names() == []


@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        ({"color": "mono"}, (6, 4)),
        ({"color": "mono"}, (6, 4, 1)),
        ({"color": "rgb"}, (6, 4, 3)),
        ({"color": "bgr"}, (6, 4, 3)),
        ({"color": "mono", "dtype": "u2", "bits": 12}, (6, 4)),
        ({"color": "rgb", "dtype": "u2"}, (6, 4, 3)),
    ],
)
def test_a_raw_frame_is_kept_as_png_without_loss(
    tmp_path: Path, fields: dict[str, Any], shape: tuple[int, ...]
) -> None:
    dtype = np.dtype("<u2") if fields.get("dtype") == "u2" else np.dtype(np.uint8)
    pixels = np.random.default_rng(1).integers(0, 4096 if dtype.itemsize == 2 else 256, shape).astype(dtype)
    kept = Kept(tmp_path)
    kept.offer(failed(), pixels.tobytes(), encoding="raw", shape=shape, **fields)
    kept.archive.close(PATIENCE_S)
    read: Any = cv2.imread(str(tmp_path / "2026-05-31/caps/left-7-0-fail.png"), cv2.IMREAD_UNCHANGED)
    expected = pixels[:, :, ::-1] if fields["color"] == "rgb" else pixels.reshape(read.shape)
    assert read.dtype == pixels.dtype.newbyteorder("=")
    np.testing.assert_array_equal(read, expected)


def test_a_jpeg_is_kept_as_it_came(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.offer(failed(), b"\xff\xd8\xff the rest", encoding="jpeg")
    kept.archive.close(PATIENCE_S)
    assert (tmp_path / "2026-05-31/caps/left-7-0-fail.jpg").read_bytes() == b"\xff\xd8\xff the rest"


@pytest.mark.parametrize("name", ["..", ".", "...", ".hidden", "a/../../b", "", "x" * 200, "nul\0"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    kept = Kept(tmp_path / "outer" / "archive")
    one = failed(camera=name, recipe=name)
    kept.offer(one)
    kept.archive.close(PATIENCE_S)
    assert len(archived_files(kept.folder, one)) == 3
    assert all(path.relative_to(kept.folder).parts[0] == "2026-05-31" for path in archived_files(kept.folder, one))
    assert len(names(tmp_path)) == len(kept.names()) == 3
    assert all(len(Path(found).parts) == 3 and "/." not in found for found in kept.names())


@pytest.fixture
def stuck_disk(tmp_path: Path) -> tuple[Path, Path]:
    """An archive where writing the overlay of part 0 hangs, as on a dead network disk, until the pipe is read."""
    pipe = tmp_path / "2026-05-31" / "caps" / "left-7-0-fail-overlay.png.partial"
    pipe.parent.mkdir(parents=True)
    os.mkfifo(pipe)
    return tmp_path, pipe


def test_a_stuck_disk_costs_pictures_and_no_time(stuck_disk: tuple[Path, Path]) -> None:
    folder, pipe = stuck_disk
    kept = Kept(folder, queue=4)
    kept.offer_to_stuck_disk(failed(0))
    for seq in range(1, 51):
        kept.offer(failed(seq))
    assert (kept.archive.waiting, kept.dropped.calls, kept.written.calls) == (4, 46, 0)
    lag_s = kept.archive.lag_s
    assert lag_s > 0
    assert pipe.read_bytes() == OVERLAY
    kept.written.wait_for(5)
    kept.archive.close(PATIENCE_S)
    assert kept.dropped.calls == 46
    assert kept.written.calls == 5


def test_the_queue_is_bounded_in_bytes_too(stuck_disk: tuple[Path, Path]) -> None:
    folder, pipe = stuck_disk
    kept = Kept(folder, queue=1000, queue_bytes=2**20)
    kept.offer_to_stuck_disk(failed(0))
    kept.offer(failed(1), bytes(3 * 2**20))
    assert kept.archive.waiting == 1
    kept.offer(failed(2))
    assert kept.dropped.calls == 1
    assert pipe.read_bytes() == OVERLAY
    kept.written.wait_for(2)
    kept.archive.close(PATIENCE_S)


def test_a_daemon_stops_in_time_on_a_stuck_disk_and_counts_what_it_leaves(stuck_disk: tuple[Path, Path]) -> None:
    folder, pipe = stuck_disk
    kept = Kept(folder)
    kept.offer_to_stuck_disk(failed(0))
    for seq in range(1, 4):
        kept.offer(failed(seq))
    kept.archive.close(0.05)
    assert kept.dropped.calls == 3
    kept.offer(failed(9))
    assert kept.dropped.calls == 4
    assert pipe.read_bytes() == OVERLAY


def test_a_disk_that_fails_costs_pictures_until_it_is_back(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    folder.write_text("no folder")
    kept = Kept(folder)
    kept.offer(failed(0))
    kept.dropped.wait_for(1)
    folder.unlink()
    kept.offer(failed(1))
    kept.written.wait_for(1)
    kept.archive.close(PATIENCE_S)
    assert [name for name in kept.names() if name.endswith("json")] == ["2026-05-31/caps/left-7-1-fail.json"]


def test_a_part_that_cant_be_written_whole_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> bytes:
        raise OSError("no overlay")

    folder = ArchiveFolder(tmp_path, Retention())
    with pytest.raises(ArchiveError, match="no overlay"):
        folder.write(part(failed(), overlay=broken))
    assert names(tmp_path) == []
    assert folder.size_bytes == 0


def filled(folder: Path, count: int, *, days_apart: float = 1.0) -> None:
    """Archive `count` parts of about 100 kB, the last of them now."""
    archive = ArchiveFolder(folder, Retention())
    now_ns = time.time_ns()
    for seq in range(count):
        received_ns = now_ns - int((count - 1 - seq) * days_apart * NS_PER_DAY)
        one = failed(seq, received_ns=received_ns)
        archive.write(part(one, bytes(100_000)))
        for path in archived_files(folder, one):
            os.utime(path, ns=(received_ns, received_ns))


def tidied(folder: ArchiveFolder) -> None:
    while folder.tidy(time.time_ns()):
        pass


def kept_parts(folder: Path) -> list[int]:
    return sorted(int(path.stem.split("-")[2]) for path in folder.rglob("*-fail.png"))


@pytest.mark.parametrize("days_apart", [1.0, 0.0])
def test_the_oldest_parts_go_whole_when_there_are_too_many(tmp_path: Path, days_apart: float) -> None:
    filled(tmp_path, 30, days_apart=days_apart)
    folder = ArchiveFolder(tmp_path, Retention(max_bytes=2**20))
    tidied(folder)
    assert len(kept_parts(tmp_path)) == 10
    if days_apart:
        assert kept_parts(tmp_path) == list(range(20, 30))
        assert len(list(tmp_path.iterdir())) == 10
    assert len(names(tmp_path)) == 20
    assert folder.size_bytes == sum((tmp_path / name).stat().st_size for name in names(tmp_path)) <= 2**20


def test_expired_parts_go_and_their_days_with_them(tmp_path: Path) -> None:
    filled(tmp_path, 12)
    tidied(ArchiveFolder(tmp_path, Retention(max_age_days=4.5)))
    assert kept_parts(tmp_path) == [7, 8, 9, 10, 11]
    assert len(list(tmp_path.iterdir())) == 5


def test_parts_written_meanwhile_are_added_up_and_go_in_their_turn(tmp_path: Path) -> None:
    folder = ArchiveFolder(tmp_path, Retention(max_bytes=2**20))
    for seq in range(40):
        folder.write(part(failed(seq), bytes(100_000)))
        tidied(folder)
        assert folder.size_bytes <= 2**20
    assert len(kept_parts(tmp_path)) == 10
    assert 39 in kept_parts(tmp_path)


def test_what_a_crash_left_half_written_is_removed_and_foreign_files_are_not(tmp_path: Path) -> None:
    filled(tmp_path, 2, days_apart=50)
    day = next(path for path in sorted(tmp_path.iterdir()))
    half = day / "caps" / "left-7-9-fail.png.partial"
    half.write_bytes(b"half")
    foreign = [day / "caps" / "notes.txt", tmp_path / "holiday.png", tmp_path / "other" / "left-7-9-fail.png"]
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "left-7-5-fail.png").write_bytes(b"mine")
    (day / "link").symlink_to(outside)
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"mine")
        os.utime(path, (0, 0))
    tidied(ArchiveFolder(tmp_path, Retention(max_age_days=1)))
    assert not half.exists()
    assert all(path.exists() for path in foreign)
    assert (outside / "left-7-5-fail.png").exists()
    assert kept_parts(tmp_path / "other") == [9]
    assert len([name for name in names(tmp_path) if "-fail.json" in name]) == 1


def test_the_last_room_on_a_disk_is_left_to_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.archive_folder.LEAST_FREE_BYTES", 2**60)
    with pytest.raises(ArchiveError, match="MiB left"):
        ArchiveFolder(tmp_path, Retention()).write(part(failed()))
    assert names(tmp_path) == []
