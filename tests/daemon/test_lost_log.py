"""A real daemon whose log goes to a full disk, while the journal's disk fills up and reloads fail."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from select import PIPE_BUF

from daemon.config import load_settings
from daemon.endpoints import ADDRESSES_FILE, running_addresses
from tests.daemon.conftest import START_TIMEOUT_S, DaemonProcess, write_config
from tests.daemon.disks import fill, small_disk
from tests.daemon.serving import metric, page, until
from tests.daemon.shift import ACKED, Shift, troubles

LOST = "patchline_log_lines_lost_total"


@contextmanager
def daemon_without_a_log(config: Path, stderr: str = "2>/dev/full") -> Iterator[DaemonProcess]:
    """Start a daemon that can't say anything: its stderr is a full disk, or what the shell makes of `stderr`."""
    daemon = DaemonProcess(config, command=("sh", "-c", f'exec "$0" "$@" {stderr}'))
    state = load_settings(config).service.state_dir
    try:
        until((state / ADDRESSES_FILE).exists, START_TIMEOUT_S)
        daemon.addresses = running_addresses(state)
        until(lambda: page(daemon, "/readyz")[0] == 200, START_TIMEOUT_S)
        yield daemon
    finally:
        daemon.end()


def test_a_daemon_without_a_log_serves_reloads_and_stops(tmp_path: Path, sleeping_banks: Path) -> None:
    config = write_config(tmp_path / "daemon", sleeping_banks)
    with daemon_without_a_log(config) as daemon:
        with Shift(daemon) as shift:
            shift.pushing.send(b"\x89PNG\r\n\x1a\nand no more")
            shift.wait_for(list)
            config.write_text(config.read_text().replace('"pins"', '"nothing"'))
            daemon.signal(signal.SIGHUP)
            until(lambda: metric(daemon, 'patchline_reloads_total{outcome="failure"}') == 1)
            shift.send(5)
            assert shift.sending.flush(60)
        assert page(daemon, "/healthz")[0] == 200
        assert metric(daemon, LOST) > 3
        assert troubles(daemon)["log"].remedy
        assert daemon.stop() == 0


def test_a_daemon_whose_log_nobody_reads_serves_reloads_and_stops(tmp_path: Path, sleeping_banks: Path) -> None:
    """Its log goes into a pipe that is full, and stays open."""
    config = write_config(tmp_path / "daemon", sleeping_banks)
    pipe = tmp_path / "log"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with daemon_without_a_log(config, f'2>"{pipe}"') as daemon:
            filler = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            with suppress(BlockingIOError):
                while True:
                    os.write(filler, b"\n" * PIPE_BUF)
            os.close(filler)
            with Shift(daemon) as shift:
                shift.pushing.send(b"\x89PNG\r\n\x1a\nand no more")
                shift.wait_for(list)
                daemon.signal(signal.SIGHUP)
                until(lambda: metric(daemon, 'patchline_reloads_total{outcome="success"}') == 1)
                shift.send(5)
                assert shift.account().judged == 5
            assert metric(daemon, LOST) > 0
            assert daemon.stop() == 0
    finally:
        os.close(reader)


def test_a_daemon_that_is_started_without_standard_streams_gives_their_numbers_to_no_file(
    tmp_path: Path, sleeping_banks: Path
) -> None:
    config = write_config(tmp_path / "daemon", sleeping_banks)
    with daemon_without_a_log(config, "0<&- 2>&-") as daemon:
        with Shift(daemon) as shift:
            shift.push(5)
            shift.send(5)
            assert shift.account().judged == 10
        assert {str(Path(f"/proc/{daemon.pid}/fd/{number}").readlink()) for number in (0, 2)} == {"/dev/null"}
        assert daemon.stop() == 0


def test_a_full_journal_disk_is_got_over_without_a_log(tmp_path: Path, sleeping_banks: Path) -> None:
    with small_disk(tmp_path / "disk", "size=16m") as disk:
        config = write_config(tmp_path / "daemon", sleeping_banks, f'[journal]\ndir = "{disk}"\n')
        with daemon_without_a_log(config) as daemon, Shift(daemon) as shift:
            shift.push(5)
            shift.send(5)
            shift.account()
            filler = fill(disk)
            while page(daemon, "/readyz")[0] == 200:
                shift.push(10)
            shift.send(20)
            filler.unlink()
            until(lambda: page(daemon, "/readyz")[0] == 200)
            account = shift.account()
    assert account.balanced
    assert set(account.not_inspected) == {"journal_unavailable"}
    assert {verdict.reason for verdict in shift.heard if verdict.camera == ACKED} == {None}
