"""`patchline doctor --live`: a daemon that is well, one that is not there, one that is mute, and each trouble named."""

import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from daemon import live_checks
from daemon.config import Settings, parse_settings
from daemon.live_checks import Reading
from daemon.live_doctor import CHECKS, examine_live
from daemon.scrape import Scrape, read_samples
from daemon.telemetry import Telemetry
from patchcore_engine.diagnosis import Finding
from tests.daemon.conftest import write_config
from tests.daemon.serving import Start, patchline
from tests.daemon.shift import Shift, troubles
from tests.deploy.files import exposed_names


def test_a_daemon_that_is_well_has_no_trouble_and_status_0(start_daemon: Start) -> None:
    daemon = start_daemon()
    with Shift(daemon) as shift:
        shift.push(5)
        shift.send(5)
        shift.account()
        done = patchline("doctor", "--live", "--json", "--config", str(daemon.config))
    report = json.loads(done.stdout)
    faults = [finding for finding in report["findings"] if finding["status"] == "fail"]
    assert (done.returncode, faults, done.stderr) == (0, [], "")
    found = {finding["check"]: finding for finding in report["findings"]}
    assert found["parts"]["detail"].startswith("10 verdicts")
    assert {"daemon", "health", "readiness", "journal", "bank caps", "readers", "descriptors"} <= found.keys()


def test_without_a_daemon_it_says_so_and_how_to_start_one(tmp_path: Path, sleeping_banks: Path) -> None:
    done = patchline("doctor", "--live", "--config", str(write_config(tmp_path, sleeping_banks)))
    assert done.returncode == 1
    assert "no daemon runs with" in done.stdout
    assert "systemctl start patchline" in done.stdout
    assert done.stderr == ""


def test_a_daemon_that_doesnt_answer_fails(start_daemon: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = start_daemon()
    monkeypatch.setattr("daemon.scrape.TIMEOUT_S", 0.5)
    daemon.signal(signal.SIGSTOP)
    try:
        found = troubles(daemon)
    finally:
        daemon.signal(signal.SIGCONT)
    assert found["daemon"].status == "fail"
    assert "doesn't answer" in found["daemon"].detail


def test_a_daemon_without_telemetry_cant_be_examined(tmp_path: Path) -> None:
    (tmp_path / "addresses.json").write_text('{"telemetry": ""}')
    (found,) = examine_live(settings(tmp_path), watched_s=0)
    assert found.status == "fail"
    assert "telemetry.listen" in found.detail


def test_every_figure_that_a_check_reads_is_one_that_the_daemon_has() -> None:
    source = Path(live_checks.__file__).read_text(encoding="utf-8")
    read = set(re.findall(r'"([a-z0-9_]+_(?:total|seconds|count|sum|info|bytes|frames|verdicts|ratio|limit))"', source))
    assert len(read) > 15
    assert {f"patchline_{name}" for name in read} <= exposed_names()


def set_nothing(_telemetry: Telemetry) -> None:
    """A daemon that is well."""


def fill_queue(telemetry: Telemetry) -> None:
    telemetry.queue_frames.set(90)
    telemetry.queue_frames_limit.set(100)


def fail_journal(telemetry: Telemetry) -> None:
    telemetry.journal_available.set(0)


def slow_journal(telemetry: Telemetry) -> None:
    telemetry.journal_commit_seconds.observe(10.0)


def quiet_camera(telemetry: Telemetry) -> None:
    telemetry.add_camera("left")
    telemetry.add_camera("right")
    telemetry.last_frame.labels("left").set(time.time() - 300)
    telemetry.last_frame.labels("right").set(time.time())


def two_senders(telemetry: Telemetry) -> None:
    telemetry.conflicts.labels("left").inc()


def deaf_line(telemetry: Telemetry) -> None:
    telemetry.subscribers.set(0)
    telemetry.verdicts.labels("left", "pass").inc()


def storm(telemetry: Telemetry) -> None:
    telemetry.reload_requests.inc(1000)
    telemetry.reloads.labels("success").inc(3)


def short_of_descriptors(telemetry: Telemetry) -> None:
    telemetry.descriptors.set(4000)
    telemetry.descriptors_limit.set(4096)
    telemetry.descriptors_short.set(1)


def little_memory(telemetry: Telemetry) -> None:
    telemetry.memory_limit.set(1)


def late_parts(telemetry: Telemetry) -> None:
    telemetry.not_inspected.labels("late").inc(7)


def many_cameras(telemetry: Telemetry) -> None:
    telemetry.cameras.set(64)
    telemetry.cameras_limit.set(64)


@pytest.mark.parametrize(
    ("trouble", "check", "status"),
    [
        (fill_queue, "queue", "warning"),
        (fail_journal, "journal", "fail"),
        (slow_journal, "journal", "warning"),
        (quiet_camera, "camera left", "fail"),
        (two_senders, "camera left", "fail"),
        (deaf_line, "readers", "warning"),
        (storm, "reload requests", "warning"),
        (short_of_descriptors, "descriptors", "fail"),
        (little_memory, "memory", "warning"),
        (late_parts, "not inspected: late", "fail"),
        (many_cameras, "cameras", "warning"),
        (lambda telemetry: telemetry.engine_errors.inc(), "engine errors", "fail"),
        (lambda telemetry: telemetry.engine_batch_limit.set(2), "engine memory", "warning"),
        (lambda telemetry: telemetry.subscribers_behind.inc(), "slow readers", "fail"),
        (lambda telemetry: telemetry.archive_dropped.inc(), "archive", "fail"),
        (lambda telemetry: telemetry.clock_steps.inc(), "clock", "fail"),
        (lambda telemetry: telemetry.log_lines_lost.inc(), "log", "fail"),
        (lambda telemetry: telemetry.streams.labels("left").inc(9), "camera left", "warning"),
        (lambda telemetry: telemetry.authenticator_alive.set(0), "doors", "fail"),
        (lambda telemetry: telemetry.doors_without_keys.set(2), "doors", "warning"),
        (lambda telemetry: telemetry.connections_refused.labels("cameras").inc(), "refused", "fail"),
        (lambda telemetry: telemetry.unfinished_cut.inc(), "unfinished", "fail"),
        (lambda telemetry: telemetry.reloads.labels("failure").inc(), "reloads", "warning"),
    ],
)
def test_each_trouble_is_named_with_its_remedy(
    tmp_path: Path, trouble: Callable[[Telemetry], object], check: str, status: str
) -> None:
    (found,) = [finding for finding in examined(tmp_path, trouble) if finding.status != "ok"]
    assert (found.check, found.status) == (check, status)
    assert found.remedy


def test_a_daemon_whose_figures_are_well_has_no_trouble(tmp_path: Path) -> None:
    assert [finding for finding in examined(tmp_path, set_nothing) if finding.status != "ok"] == []


def test_what_is_over_is_a_warning(tmp_path: Path) -> None:
    telemetry = well()
    late_parts(telemetry)
    before = scraped(telemetry)
    found = [finding for check in CHECKS for finding in check(Reading(before, before, settings(tmp_path)))]
    (late,) = [finding for finding in found if finding.status != "ok"]
    assert (late.check, late.status) == ("not inspected: late", "warning")
    assert late.detail.startswith("7 parts since the start, 0 in the last")


def examined(folder: Path, trouble: Callable[[Telemetry], object]) -> list[Finding]:
    """The findings about a daemon that was well before `trouble` came over it."""
    telemetry = well()
    before = scraped(telemetry)
    trouble(telemetry)
    reading = Reading(before, scraped(telemetry), settings(folder))
    return [finding for check in CHECKS for finding in check(reading)]


def well() -> Telemetry:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    telemetry = Telemetry(registry)
    telemetry.add_camera("left")
    for gauge, value in (
        (telemetry.journal_available, 1),
        (telemetry.engine_batch_limit, 8),
        (telemetry.subscribers, 1),
        (telemetry.cameras_limit, 64),
        (telemetry.descriptors_limit, 4096),
        (telemetry.memory_limit, 2**40),
    ):
        gauge.set(value)
    return telemetry


def scraped(telemetry: Telemetry) -> Scrape:
    samples = read_samples(generate_latest(telemetry.registry).decode())
    return Scrape(at_s=time.monotonic(), health="", readiness="", samples=samples)


def settings(folder: Path) -> Settings:
    return parse_settings(f'[service]\nstate_dir = "{folder}"\n')


def test_nobody_waits_for_a_daemon_that_left_its_addresses_behind(tmp_path: Path) -> None:
    (tmp_path / "addresses.json").write_text('{"telemetry": "127.0.0.1:1"}')
    (found,) = examine_live(settings(tmp_path), watched_s=0)
    assert found.status == "fail"
    assert "left its addresses" in (found.remedy or "")
