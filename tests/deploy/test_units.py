"""systemd accepts the units, and they are as confined as a daemon with an NPU can be."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from daemon.config import Settings
from tests.deploy.files import DEPLOY, UNITS

DROPINS = tuple(sorted((DEPLOY / "dropins").glob("*.conf")))
HIGHEST_EXPOSURE = 2.0
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (Debian: apt-get install systemd)"
)


def systemd_version() -> int:
    shown = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, check=True).stdout
    return int(shown.split()[1].split(".")[0])


def settings(unit: str) -> dict[str, list[str]]:
    """Return every setting of a unit file with its values in order."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / unit).read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def staged_units(root: Path, *dropins: Path) -> Path:
    """Lay the units out below `root` as they are installed, on a tree that holds what they start."""
    folder = root / "etc/systemd/system"
    folder.mkdir(parents=True)
    for unit in UNITS:
        shutil.copy(DEPLOY / unit, folder / unit)
        for dropin in dropins:
            target = folder / f"{unit}.d"
            target.mkdir(exist_ok=True)
            shutil.copy(dropin, target)
    for program in ("opt/patchline/current/bin/patchline", "bin/kill"):
        path = root / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    for name in ("multi-user", "network-online", "sysinit", "basic", "shutdown"):
        (folder / f"{name}.target").write_text("[Unit]\n")
    return folder


def exposure(unit: Path, *options: str) -> float:
    shown = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", *options, str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", shown.stdout)
    assert found, shown.stdout + shown.stderr
    return float(found[1])


@needs_systemd
@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_as_confined_as_promised(unit: str) -> None:
    assert exposure(DEPLOY / unit) <= HIGHEST_EXPOSURE


@needs_systemd
@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_stays_confined_on_an_ascend_host(unit: str, tmp_path: Path) -> None:
    text = (DEPLOY / unit).read_text() + (DEPLOY / "dropins/20-ascend.conf").read_text()
    path = tmp_path / unit
    path.write_text(text)
    assert exposure(path) <= HIGHEST_EXPOSURE


@needs_systemd
@pytest.mark.parametrize("with_ascend", [False, True], ids=["a CPU host", "an Ascend host"])
def test_systemd_finds_no_fault_with_the_units(with_ascend: bool, tmp_path: Path) -> None:
    newest = {
        "10-notify-reload.conf": 253,
        "15-restart-backoff.conf": 254,
        "20-ascend.conf": 0 if with_ascend else 10**6,
        "30-keys.conf": 247,
    }
    staged = staged_units(tmp_path, *(path for path in DROPINS if newest[path.name] <= systemd_version()))
    for unit in (staged / "patchline.service", staged / "patchline@left.service"):
        if not unit.exists():
            shutil.copy(staged / "patchline@.service", unit)
    result = subprocess.run(
        ["systemd-analyze", "verify", f"--root={tmp_path}", "--man=no", "patchline.service", "patchline@left.service"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_the_template_differs_from_the_plain_unit_by_the_line_alone() -> None:
    plain, template = (settings(unit) for unit in UNITS)
    assert {key: [value.replace("/%i", "") for value in values] for key, values in template.items()} == {
        **plain,
        "Description": [f"{plain['Description'][0]}, line %i"],
        "ExecStart": [plain["ExecStart"][0].replace("/config.toml", ".toml")],
    }
    for key in ("StateDirectory", "CacheDirectory", "RuntimeDirectory", "WorkingDirectory"):
        assert template[key][0].endswith("/%i")


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_restarts_a_stuck_daemon_and_lets_a_stopping_one_finish(unit: str) -> None:
    found = settings(unit)
    assert found["Type"] == ["notify"]
    assert found["Restart"] == ["on-failure"]
    assert int(found["WatchdogSec"][0]) > 0
    assert found["ExecReload"] == ["/bin/kill -HUP $MAINPID"]


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_waits_longer_than_the_daemon_needs(unit: str) -> None:
    service, found = Settings().service, settings(unit)
    assert int(found["TimeoutStartSec"][0]) > service.load_s
    assert int(found["TimeoutStopSec"][0]) > service.drain_s


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_leaves_on_what_mindspore_needs(unit: str) -> None:
    found = settings(unit)
    assert "MemoryDenyWriteExecute" not in found
    assert "ProcSubset" not in found
    assert "PrivateDevices" not in found
    text = (DEPLOY / unit).read_text()
    assert "# MemoryDenyWriteExecute is left off on purpose" in text


@pytest.mark.parametrize("unit", UNITS)
def test_the_nodes_of_an_npu_are_allowed_and_no_other_device(unit: str) -> None:
    found = settings(unit)
    assert found["DevicePolicy"] == ["closed"]
    nodes = {value.removesuffix(" rw") for value in found["DeviceAllow"]}
    assert {"/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc"} < nodes
    assert nodes - {f"/dev/davinci{i}" for i in range(16)} == {
        "/dev/davinci_manager",
        "/dev/devmm_svm",
        "/dev/hisi_hdc",
    }


def test_only_the_ascend_drop_in_asks_for_the_drivers_group() -> None:
    assert all("SupplementaryGroups" not in settings(unit) for unit in UNITS)
    assert "SupplementaryGroups=HwHiAiUser" in (DEPLOY / "dropins/20-ascend.conf").read_text()


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed")
def test_the_user_and_the_folders_are_made(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("making users below another root needs root")
    (tmp_path / "etc").mkdir()
    sysusers, tmpfiles = DEPLOY / "sysusers.d/patchline.conf", DEPLOY / "tmpfiles.d/patchline.conf"
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}", sysusers], check=True, capture_output=True)
    subprocess.run(["systemd-tmpfiles", f"--root={tmp_path}", "--create", tmpfiles], check=True, capture_output=True)
    uid, gid = (tmp_path / "etc/passwd").read_text().split("patchline:x:")[1].split(":")[:2]
    banks = (tmp_path / "var/lib/patchline/banks").stat()
    assert (str(banks.st_uid), str(banks.st_gid), banks.st_mode & 0o777) == (uid, gid, 0o750)
