"""Disks in trouble under a real daemon: full, read-only, frozen, slow; parts at both doors, and their account."""

import shutil
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from daemon.outcomes import Reason
from tests.daemon.conftest import write_config
from tests.daemon.disks import break_ext4, delayed, ext4_disk, fill, frozen, mounted_image, remount, small_disk
from tests.daemon.serving import Start, journalled, metric, on_the_same_addresses, page, patchline, until
from tests.daemon.shift import ACKED, Shift, lines, troubles
from tests.e2e.account import Account


def test_a_full_disk_stops_the_journal_and_room_on_it_brings_it_back(start_daemon: Start, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=16m") as disk:
        daemon = start_daemon(f'[journal]\ndir = "{disk}"\n')
        with Shift(daemon) as shift:
            shift.push(5)
            shift.send(5)
            shift.account()
            filler = fill(disk)
            while page(daemon, "/readyz")[0] == 200:
                shift.push(10)
            shift.send(20)
            found = troubles(daemon)
            assert {found["journal"].status, found["readiness"].status} == {"fail"}
            filler.unlink()
            until(lambda: page(daemon, "/readyz")[0] == 200)
            shift.push(5)
            account = shift.account()
        daemon.kill()
    assert account.balanced
    assert set(account.not_inspected) == {"journal_unavailable"}
    assert {verdict.reason for verdict in shift.heard if verdict.camera == ACKED} == {None}
    assert "the disk is full. Make room." in lines(daemon, "journal_failed")[0]["error"]
    assert "goes on by itself" in lines(daemon, "not_inspected")[0]["advice"]


def test_a_disk_that_turns_read_only_holds_acked_parts_until_a_restart_on_a_mended_one(
    start_daemon: Start, tmp_path: Path
) -> None:
    with ExitStack() as resources:
        with ext4_disk(tmp_path / "disk") as disk:
            first = start_daemon(f'[journal]\ndir = "{disk}"\n')
            shift = resources.enter_context(Shift(first))
            shift.push(5)
            shift.send(5)
            shift.account()
            break_ext4(disk)
            shift.push(10)
            until(lambda: page(first, "/readyz")[0] == 503)
            shift.send(20)
            shift.wait_for(lambda heard: [v for v in heard if v.reason is Reason.JOURNAL_UNAVAILABLE][9:])
            assert "turned read-only" in lines(first, "journal_failed")[0]["error"]
            assert troubles(first)["journal"].status == "fail"
            assert first.stop() == 0
            first.kill()
        with mounted_image(disk):
            second = start_daemon(config=on_the_same_addresses(first))
            shift.push(5)
            assert shift.sending.flush(60)
            until(lambda: len(journalled(second)) == 45)
            account = Account.of(shift.sent, journalled(second))
            second.kill()
    assert account.balanced
    # Told as journal_unavailable at the time, they are in the journal as the gap that it shows.
    assert (account.judged, account.not_inspected) == (35, {"missing": 10})


@pytest.mark.parametrize("seconds", [2, pytest.param(10, marks=pytest.mark.chaos)])
def test_a_disk_whose_sync_takes_seconds_delays_verdicts_and_loses_none(start_daemon: Start, seconds: int) -> None:
    daemon = start_daemon()
    with Shift(daemon) as shift:
        shift.push(1)
        shift.send(1)
        shift.account()
        with delayed(daemon, "fsync,fdatasync", seconds):
            shift.push(20)
            shift.send(20)
            shift.wait_for(lambda heard: heard[2:])
        account = shift.account()
    assert account.balanced
    assert account.judged == 42
    assert "slow" in troubles(daemon)["journal"].detail
    assert lines(daemon, "journal_slow")[0]["seconds"] >= seconds
    assert "faster" in lines(daemon, "journal_slow")[0]["advice"]
    assert lines(daemon, "stuck") == []


def test_a_frozen_disk_is_told_as_stuck_and_everything_goes_on_when_it_thaws(
    start_daemon: Start, tmp_path: Path
) -> None:
    with ext4_disk(tmp_path / "disk") as disk:
        daemon = start_daemon(f'[journal]\ndir = "{disk}"\n[service]\nstuck_s = 0.5\n')
        with Shift(daemon) as shift:
            shift.push(5)
            shift.send(5)
            shift.account()
            with frozen(disk):
                shift.push(20)
                shift.send(20)
                assert daemon.wait_for("stuck")["hangs"] == "journal"
                assert page(daemon, "/healthz") == (503, "Work waits and the journal finished none within 0.5 s.\n")
            daemon.wait_for("going_on")
            account = shift.account()
        daemon.kill()
    assert account.balanced
    assert account.judged == 50


def test_an_archive_that_is_full_or_read_only_drops_pictures_and_no_verdict(
    start_daemon: Start, tmp_path: Path
) -> None:
    # Three files a part: the second part finds no inode left.
    with small_disk(tmp_path / "disk", "size=400m,nr_inodes=8") as disk:
        daemon = start_daemon(f'[archive]\nenabled = true\ndir = "{disk}/archive"\nevery_nth_pass = 1\n')

        def archived() -> float:
            return metric(daemon, "patchline_archive_parts_total")

        def dropped() -> float:
            return metric(daemon, "patchline_archive_dropped_parts_total")

        with Shift(daemon) as shift:
            shift.push(10)
            until(lambda: archived() + dropped() == 10)
            assert dropped() >= 9
            remount(disk, "nr_inodes=0")
            shift.push(10)
            until(lambda: archived() + dropped() == 20)
            assert dropped() <= 10
            remount(disk, "ro")
            shift.push(10)
            until(lambda: archived() + dropped() == 30)
            assert archived() <= 11
            assert "archive" in troubles(daemon)
            remount(disk, "rw")
            shift.push(10)
            until(lambda: archived() + dropped() == 40)
            assert archived() >= 20
            account = shift.account()
        told = lines(daemon, "archive_dropped")
        daemon.kill()
    assert account.balanced
    assert account.judged == 40
    assert "No space left" in told[0]["error"]
    assert told[0]["advice"]


@pytest.mark.parametrize("key", ["service.state_dir", "journal.dir"])
def test_a_start_on_a_full_disk_is_one_plain_line(tmp_path: Path, sleeping_banks: Path, key: str) -> None:
    with small_disk(tmp_path / "disk", "size=8m") as disk:
        section, _, name = key.partition(".")
        config = write_config(tmp_path / "daemon", sleeping_banks)
        config.write_text(config.read_text().replace(str(tmp_path / "daemon" / "state"), str(tmp_path / "state")))
        if key == "service.state_dir":
            config.write_text(config.read_text().replace(str(tmp_path / "state"), str(disk)))
        else:
            config.write_text(f'{config.read_text()}\n[{section}]\n{name} = "{disk}"\n')
        fill(disk)
        done = patchline("serve", "--config", str(config))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert str(disk) in last
    assert "No space left on device" in last


def test_banks_on_a_read_only_disk_are_served_and_reloaded(
    start_daemon: Start, tmp_path: Path, sleeping_banks: Path
) -> None:
    with small_disk(tmp_path / "disk", "size=64m") as disk:
        shutil.copytree(sleeping_banks, disk / "banks", symlinks=True)
        remount(disk, "ro")
        daemon = start_daemon(config=write_config(tmp_path / "daemon", disk / "banks"))
        with Shift(daemon) as shift:
            shift.push(5)
            daemon.signal(signal.SIGHUP)
            daemon.wait_for("reloaded")
            shift.send(5)
            account = shift.account()
        version = next(iter((disk / "banks" / "caps").glob("2*"))).name
        refused = patchline("bank", "activate", "caps", version, "--banks", str(disk / "banks"))
        daemon.kill()
    assert account.balanced
    assert account.judged == 10
    assert refused.returncode == 1
    assert "Read-only file system" in refused.stderr
    assert "Traceback" not in refused.stderr
