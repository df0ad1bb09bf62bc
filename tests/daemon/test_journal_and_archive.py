"""Journal and archive inside a real daemon."""

import json
from pathlib import Path

import cv2
import numpy as np

from daemon.push_camera import PushCamera
from patchcore_engine.images import decode
from tests.daemon.conftest import bad_part, good_part
from tests.daemon.serving import Start, metric, patchline, verdicts_of


def test_a_failed_part_is_explained_while_the_daemon_runs(start_daemon: Start, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    daemon = start_daemon(f'[archive]\nenabled = true\ndir = "{archive}"\nevery_nth_pass = 5\n')
    with PushCamera(daemon.addresses["push"], "cam1") as camera:
        for number in range(20):
            camera.send(bad_part(number) if number == 7 else good_part(number), part=f"part{number}")
    verdicts = verdicts_of(daemon, 20)
    passed = sum(verdict.verdict == "pass" for verdict in verdicts)
    told = " ".join(patchline("journal", "query", "--config", str(daemon.config), "--part", "part7").stdout.split())
    assert "part part7: fail" in told
    assert "above the fail threshold" in told
    exported = patchline("journal", "export", "--config", str(daemon.config)).stdout.splitlines()
    assert [json.loads(line)["offset"] for line in exported] == list(range(20))
    assert daemon.stop() == 0
    kept = {path.name for path in archive.rglob("*.json")}
    assert len(kept) == 20 - passed + passed // 5
    stem = next(path for path in archive.rglob("*-fail.json") if json.loads(path.read_text())["part"] == "part7")
    original = cv2.imread(str(stem.with_suffix(".png")), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(original, bad_part(7))
    overlay = decode(stem.with_name(f"{stem.stem}-overlay.png").read_bytes())
    assert overlay.shape == (64, 64, 3)


def test_the_archive_is_counted(start_daemon: Start, tmp_path: Path) -> None:
    blocked = tmp_path / "archive"
    blocked.write_text("no folder")
    daemon = start_daemon(f'[archive]\nenabled = true\ndir = "{blocked}"\n')
    with PushCamera(daemon.addresses["push"], "cam1") as camera:
        for number in range(3):
            camera.send(bad_part(number))
    assert len(verdicts_of(daemon, 3)) == 3
    daemon.wait_for("archive_dropped")
    assert metric(daemon, "patchline_archive_dropped_parts_total") >= 1
    assert metric(daemon, "patchline_archive_parts_total") == 0


def test_a_second_daemon_with_the_same_journal_is_refused(start_daemon: Start, tmp_path: Path) -> None:
    first = start_daemon()
    text = Path(first.config).read_text()
    state = tmp_path / "daemon" / "state"
    config = tmp_path / "second.toml"
    config.write_text(text.replace(str(state), str(tmp_path / "other")) + f'[journal]\ndir = "{state}"\n')
    told = patchline("serve", "--config", str(config))
    assert told.returncode == 1
    assert "is used by another daemon" in told.stderr
