"""The checks of a running daemon, each over two readings of its figures."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from daemon.advice import ADVICE
from daemon.archive import MEND
from daemon.config import MIB, Settings
from daemon.delivery import FASTER_DISK
from daemon.engine_health import LOOK, MAKE_ROOM
from daemon.logs import LOG_LOST
from daemon.outcomes import Reason
from daemon.scrape import Scrape
from daemon.self_watch import ADVICE as HANG_ADVICE
from daemon.self_watch import ONE_CLOCK
from patchcore_engine.diagnosis import Finding, Status

BUSY_RATIO: Final = 0.9
FULL_RATIO: Final = 0.8
LAGGING_VERDICTS: Final = 100
SLOW_COMMIT_S: Final = 0.5
# A bound of the histogram.
SLOW_BUCKET: Final = "0.8192"
QUIET_S: Final = 60.0
TALKING_S: Final = 30.0
LOW_SPACE_BYTES: Final = 256 * MIB
MANY_RELOADS: Final = 10
MANY_STARTS: Final = 3


@dataclass(frozen=True)
class Reading:
    """Two scrapes of one daemon, and the configuration that it runs by."""

    first: Scrape
    last: Scrape
    settings: Settings

    @cached_property
    def watched_s(self) -> float:
        return self.last.at_s - self.first.at_s

    @property
    def up_s(self) -> float:
        return max(time.time() - self.last.value("start_timestamp_seconds"), 0.0)

    def rise(self, name: str, **labels: str) -> float:
        """Return by how much a counter rose between the scrapes."""
        return self.last.value(name, **labels) - self.first.value(name, **labels)


def check_health(reading: Reading) -> Iterator[Finding]:
    """What /healthz and /readyz say."""
    health, readiness = reading.last.health, reading.last.readiness
    remedy = next((advice for hangs, advice in HANG_ADVICE.items() if hangs in health), "Restart the daemon.")
    yield _finding("health", "fail" if health else "ok", health or "work makes progress", remedy)
    remedy = "`journalctl -u patchline` tells more; `patchline doctor` checks banks, weights, device and disks."
    yield _finding("readiness", "fail" if readiness else "ok", readiness or "frames sent now are judged", remedy)


def check_parts(reading: Reading) -> Iterator[Finding]:
    """Parts that were not inspected, by reason; one that is rising is a fault, one of the past a warning."""
    total = reading.last.value("verdicts_total")
    yield _finding("parts", "ok", f"{total:,.0f} verdicts, {reading.rise('verdicts_total'):,.0f} {_lately(reading)}")
    for reason in Reason:
        count = reading.last.value("not_inspected_total", reason=reason.value)
        if count:
            rise = reading.rise("not_inspected_total", reason=reason.value)
            detail = f"{count:,.0f} parts since the start, {rise:,.0f} {_lately(reading)}"
            yield _finding(f"not inspected: {reason}", "fail" if rise else "warning", detail, ADVICE[reason])


def check_engine(reading: Reading) -> Iterator[Finding]:
    """Errors, scores that are no numbers, memory and load of the engine."""
    yield from _counted(reading, "engine errors", "engine_errors_total", "batches failed", LOOK)
    yield from _counted(reading, "engine scores", "engine_not_finite_total", "scores were no number", LOOK)
    limit, largest = reading.last.value("engine_batch_limit_frames"), max(reading.settings.engine.batch_sizes)
    if limit < largest:
        detail = f"batches of {limit:.0f} instead of {largest}: the device ran out of memory"
        yield _finding("engine memory", "warning", detail, MAKE_ROOM)
    busy = reading.last.value("engine_utilisation_ratio")
    status: Status = "warning" if busy > BUSY_RATIO else "ok"
    yield _finding("engine load", status, f"busy {busy:.0%} of the last 30 s", ADVICE[Reason.SHED])


def check_queue(reading: Reading) -> Iterator[Finding]:
    """How full the queue is."""
    last = reading.last
    full = max(_ratio(last, "queue_frames"), _ratio(last, "queue_bytes"))
    detail = f"{last.value('queue_frames'):.0f} frames wait, {full:.0%} full"
    yield _finding("queue", "warning" if full > FULL_RATIO else "ok", detail, ADVICE[Reason.SHED])


def check_journal(reading: Reading) -> Iterator[Finding]:
    """Whether the journal takes verdicts, how fast, and how much room it has."""
    last, folder = reading.last, reading.settings.journal_dir
    if not last.value("journal_available"):
        advice = ADVICE[Reason.JOURNAL_UNAVAILABLE]
        detail = f"{folder} can't be written: acked frames wait with their senders, pushed ones are not inspected"
        yield _finding("journal", "fail", detail, advice)
        return
    lag, commits = last.value("journal_lag_verdicts"), reading.rise("journal_commit_seconds_count")
    seconds = reading.rise("journal_commit_seconds_sum") / commits if commits else 0.0
    slow_ones = last.value("journal_commit_seconds_count") - last.value("journal_commit_seconds_bucket", le=SLOW_BUCKET)
    slow = lag > LAGGING_VERDICTS or seconds > SLOW_COMMIT_S or slow_ones > 0
    detail = f"{lag:.0f} verdicts wait for the disk, {seconds * 1e3:.1f} ms a commit {_lately(reading)}"
    if slow_ones:
        detail += f", {slow_ones:.0f} slow commits since the start (above {SLOW_BUCKET} s)"
    yield _finding("journal", "warning" if slow else "ok", detail, FASTER_DISK)
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        yield _finding("journal disk", "fail", f"{folder}: {error.strerror}", "Bring the folder back.")
        return
    detail = f"{free / 1e9:.1f} GB free at {folder}"
    yield _finding("journal disk", "warning" if free < LOW_SPACE_BYTES else "ok", detail, "Make room.")


def check_archive(reading: Reading) -> Iterator[Finding]:
    """Parts that the archive didn't keep."""
    yield from _counted(reading, "archive", "archive_dropped_parts_total", "parts not archived", MEND)


def check_banks(reading: Reading) -> Iterator[Finding]:
    """Whether the banks that serve are those on disk, and whether a reload failed."""
    from daemon.recipes import bank_folder
    from patchcore_engine.bank_store import resolve
    from patchcore_engine.errors import BankError

    for labels in reading.last.labels("bank_info"):
        name, serving = labels["recipe"], labels["bank"]
        check, recipe = f"bank {name}", reading.settings.recipes.get(name)
        if recipe is None:
            remedy = "Reload (`systemctl reload patchline`) to take it away."
            yield _finding(check, "warning", f"{serving} serves, but the configuration has no such recipe", remedy)
            continue
        try:
            active = resolve(bank_folder(reading.settings, recipe)).resolve().name
        except (BankError, OSError) as error:
            remedy = f"{serving} serves on from memory; bring it back before a restart: `patchline bank list`."
            yield _finding(check, "fail", str(error), remedy)
            continue
        remedy = (
            "Reload (`systemctl reload patchline`); `journalctl -u patchline -g reload_failed` tells why one failed."
        )
        detail = f"{serving} serves" + ("" if active == serving else f", {active} is the active version on disk")
        yield _finding(check, "ok" if active == serving else "warning", detail, remedy)
    remedy = (
        "`journalctl -u patchline -g reload_failed` names recipe and cause; `patchline bank verify` checks the bank."
    )
    failures = reading.last.value("reloads_total", outcome="failure")
    if failures:
        detail = f"{failures:.0f} failed since the start; what served before serves on"
        yield _finding("reloads", "warning", detail, remedy)


def check_cameras(reading: Reading) -> Iterator[Finding]:
    """Cameras that went quiet while others talk, lose frames, share a name, or are too many."""
    now = time.time()
    quiet_s = {
        camera: now - at for camera, at in reading.last.by("camera", "last_frame_timestamp_seconds").items() if at
    }
    for camera, seconds in sorted(quiet_s.items()):
        if seconds > QUIET_S and min(quiet_s.values()) < TALKING_S:
            remedy = "Check its power, cable, trigger and log: other cameras send, so its parts pass unseen."
            yield _finding(f"camera {camera}", "fail", f"quiet for {seconds:.0f} s", remedy)
    for camera in sorted(reading.last.by("camera", "stream_conflicts_total")):
        if reading.rise("stream_conflicts_total", camera=camera):
            remedy = "Give each camera a name of its own; a sender's old process that still runs is the usual cause."
            yield _finding(f"camera {camera}", "fail", "two senders use this name", remedy)
        starts = reading.rise("streams_started_total", camera=camera)
        if starts > MANY_STARTS:
            remedy = "Look at its log and power: it starts anew again and again."
            yield _finding(f"camera {camera}", "warning", f"started {starts:.0f} times {_lately(reading)}", remedy)
    cameras, limit = reading.last.value("cameras"), reading.last.value("cameras_limit")
    detail = f"{cameras:.0f} known of at most {limit:.0f}"
    full = cameras >= limit
    yield _finding("cameras", "warning" if full else "ok", detail, ADVICE[Reason.TOO_MANY_CAMERAS])


def check_readers(reading: Reading) -> Iterator[Finding]:
    """Whether somebody hears the verdicts, and keeps up."""
    last = reading.last
    subscribers, senders = last.value("subscribers"), last.value("acked_senders")
    deaf = not subscribers and not senders and reading.rise("verdicts_total") > 0
    detail = f"{subscribers:.0f} readers of verdicts, {senders:.0f} senders at the acked door"
    remedy = "Look at the line controller: verdicts leave and nobody hears them. It gets them again by replay."
    yield _finding("readers", "warning" if deaf else "ok", detail, remedy)
    remedy = "End, or mend, the reader that doesn't read: what it missed it gets by replay."
    yield from _counted(reading, "slow readers", "subscribers_behind_total", "times a reader fell behind", remedy)


def check_doors(reading: Reading) -> Iterator[Finding]:
    """Whether the doors ask for keys, and whom they turned away."""
    last = reading.last
    if not last.value("authenticator_alive"):
        detail, remedy = (
            "nobody is there to ask for keys: the doors are closed",
            "Restart the daemon; its log tells why.",
        )
        yield _finding("doors", "fail", detail, remedy)
    open_doors = last.value("doors_without_keys")
    if open_doors:
        remedy = "Let them ask for keys (`patchline keys new`, README), or bind them to loopback."
        yield _finding("doors", "warning", f"other hosts reach {open_doors:.0f} without a key", remedy)
    remedy = "`journalctl -u patchline -g peer_refused` shows key and address; `patchline keys show` prints the lists."
    yield from _counted(reading, "refused", "connections_refused_total", "connections with a key on no list", remedy)
    remedy = "`journalctl -u patchline -g _cut` shows the address: stop what sends from there."
    yield from _counted(
        reading, "unfinished", "unfinished_messages_cut_total", "messages without end or of many parts cut off", remedy
    )


def check_host(reading: Reading) -> Iterator[Finding]:
    """Memory, descriptors, the clock, the log, and reloads that pile up."""
    last = reading.last
    resident, ceiling = last.resident_bytes, last.value("memory_limit_bytes")
    remedy = "See what else runs in its control group, and lower the largest shares that `patchline doctor` shows."
    detail = f"{resident / MIB:,.0f} of {ceiling / MIB:,.0f} MiB"
    yield _finding("memory", "warning" if resident > BUSY_RATIO * ceiling else "ok", detail, remedy)
    used, limit = last.value("descriptors"), last.value("descriptors_limit")
    short = bool(last.value("descriptors_short"))
    low = limit and used > FULL_RATIO * limit
    remedy = "Find who opens so many connections (`ss -tnp`), or allow more: LimitNOFILE= in the unit."
    detail = f"{used:.0f} of {limit:.0f} in use" + (": new connections are turned away" if short else "")
    yield _finding("descriptors", "fail" if short else "warning" if low else "ok", detail, remedy)
    yield from _counted(reading, "clock", "clock_steps_total", "jumps of the host's clock", ONE_CLOCK)
    yield from _counted(reading, "log", "log_lines_lost_total", "log lines couldn't be written", LOG_LOST)
    asked, done = last.value("reload_requests_total"), last.value("reloads_total")
    if asked > MANY_RELOADS * max(done, 1):
        remedy = "Something sends SIGHUP again and again: `bank activate` and `systemctl reload` need one."
        yield _finding("reload requests", "warning", f"{asked:.0f} for {done:.0f} reloads", remedy)


def _counted(reading: Reading, check: str, name: str, words: str, remedy: str) -> Iterator[Finding]:
    """A counter that should stay at 0: rising is a fault, above 0 a warning."""
    count, rise = reading.last.value(name), reading.rise(name)
    if count:
        detail = f"{count:,.0f} {words} since the start, {rise:,.0f} {_lately(reading)}"
        yield _finding(check, "fail" if rise else "warning", detail, remedy)


def _finding(check: str, status: Status, detail: str, remedy: str | None = None) -> Finding:
    return Finding(check=check, status=status, detail=detail, remedy=None if status == "ok" else remedy)


def _lately(reading: Reading) -> str:
    return f"in the last {reading.watched_s:.1f} s"


def _ratio(scrape: Scrape, name: str) -> float:
    limit = scrape.value(f"{name}_limit")
    return scrape.value(name) / limit if limit else 0.0
