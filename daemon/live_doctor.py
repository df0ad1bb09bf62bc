"""`patchline doctor --live`: what a running daemon's own figures say is wrong, and what to do about it."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from daemon import live_checks
from daemon.config import Settings
from daemon.endpoints import running_addresses
from daemon.errors import NotRunningError
from daemon.live_checks import Reading
from daemon.scrape import scrape
from patchcore_engine.diagnosis import Finding

WATCHED_S: Final = 2.0

CHECKS: Final[tuple[Callable[[Reading], Iterator[Finding]], ...]] = (
    live_checks.check_health,
    live_checks.check_parts,
    live_checks.check_engine,
    live_checks.check_queue,
    live_checks.check_journal,
    live_checks.check_archive,
    live_checks.check_banks,
    live_checks.check_cameras,
    live_checks.check_readers,
    live_checks.check_doors,
    live_checks.check_host,
)


def examine_live(settings: Settings, *, watched_s: float = WATCHED_S) -> Iterator[Finding]:
    """Read the daemon of `settings` twice, `watched_s` apart, and judge what it says and what changed meanwhile."""
    state = settings.service.state_dir
    try:
        address = running_addresses(state)["telemetry"]
    except (NotRunningError, KeyError):
        yield _not_running(state)
        return
    if not address:
        remedy = "Set telemetry.listen and restart: without it neither Prometheus nor this command sees the daemon."
        yield Finding(check="daemon", status="fail", detail='telemetry.listen is ""', remedy=remedy)
        return
    address = address.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:")
    try:
        first = scrape(address)
        time.sleep(watched_s)
        second = scrape(address)
    except NotRunningError as error:
        remedy = "It hangs, or it was killed and left its addresses: `systemctl status patchline`, then restart it."
        yield Finding(check="daemon", status="fail", detail=str(error), remedy=remedy)
        return
    reading = Reading(first, second, settings)
    yield Finding(check="daemon", status="ok", detail=f"answers at {address}, up for {_duration(reading.up_s)}")
    for check in CHECKS:
        yield from check(reading)


def _not_running(state: Path) -> Finding:
    return Finding(
        check="daemon",
        status="fail",
        detail=f"no daemon runs with {state} as its state folder",
        remedy="Start it (`systemctl start patchline`); `journalctl -u patchline` says why it ended. Or name its "
        "configuration with --config.",
    )


def _duration(seconds: float) -> str:
    minutes = int(seconds) // 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes // 1440} d {minutes // 60 % 24} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
