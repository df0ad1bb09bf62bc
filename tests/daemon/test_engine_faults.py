"""An engine in trouble: real daemons whose sleeping backbone plays faults, parts at both doors, and their account."""

import signal
from pathlib import Path

from daemon.outcomes import Reason
from tests.daemon.conftest import write_config
from tests.daemon.serving import Start, journalled, metric, on_the_same_addresses, page, patchline, until
from tests.daemon.shift import ACKED, PUSHED, Shift, lines, troubles
from tests.e2e.account import Account

# Both recipes' trial inspections at the start are the first two batches.
ONE_BY_ONE = "[engine]\nbatch_sizes = [1]\n"


def test_batches_in_which_the_engine_raises_are_engine_errors_and_the_rest_is_judged(start_daemon: Start) -> None:
    daemon = start_daemon(f'{ONE_BY_ONE}faults = [{{ kind = "raise", after = 5, batches = 20 }}]\n')
    with Shift(daemon) as shift:
        shift.push(20)
        shift.send(20)
        account = shift.account()
    assert account.balanced
    assert (account.judged, account.not_inspected) == (20, {"engine_error": 20})
    assert metric(daemon, "patchline_engine_errors_total") == 20
    told = lines(daemon, "engine_failed")
    assert len(told) < 20
    assert "device was lost" in told[0]["error"]
    assert {"engine errors", "not inspected: engine_error"} <= troubles(daemon).keys()
    assert "patchline doctor" in told[0]["advice"]


def test_parts_whose_score_is_no_number_are_engine_errors(start_daemon: Start) -> None:
    daemon = start_daemon(f'{ONE_BY_ONE}faults = [{{ kind = "nan", after = 5, batches = 20 }}]\n')
    with Shift(daemon) as shift:
        shift.push(20)
        shift.send(20)
        account = shift.account()
    assert account.balanced
    assert (account.judged, account.not_inspected) == (20, {"engine_error": 20})
    assert metric(daemon, "patchline_engine_not_finite_total") == 20
    assert "engine scores" in troubles(daemon)
    (told, *_) = lines(daemon, "engine_gave_no_number")
    assert "patchline doctor" in told["advice"]


def test_an_engine_ten_times_as_slow_sheds_and_judges_all_again_when_it_is_well(start_daemon: Start) -> None:
    engine = f'{ONE_BY_ONE}sleep_ms = 10\nfaults = [{{ kind = "slow", after = 12, batches = 30 }}]\n'
    daemon = start_daemon(f"{engine}[queue]\nframes = 8\n")
    with Shift(daemon) as shift:
        assert [shift.judge_one().reason for _ in range(10)] == [None] * 10
        while metric(daemon, 'patchline_not_inspected_total{reason="shed"}') == 0:
            shift.push(20)
        shift.account()
        while shift.judge_one().stages.embed > 50_000:
            pass
        assert [shift.judge_one().reason for _ in range(5)] == [None] * 5
        account = shift.account()
    assert account.balanced
    assert set(account.not_inspected) == {"shed"}
    assert "not inspected: shed" in troubles(daemon)
    (told, *_) = lines(daemon, "queue_full")
    assert told["camera"] == PUSHED
    assert "slower than what comes" in told["advice"]


def test_a_batch_that_doesnt_fit_into_memory_is_done_in_smaller_ones(start_daemon: Start) -> None:
    daemon = start_daemon('[engine]\nsleep_ms = 30\nfaults = [{ kind = "out_of_memory", after = 2, fits = 3 }]\n')
    assert metric(daemon, "patchline_engine_batch_limit_frames") == 8
    with Shift(daemon) as shift:
        shift.push(40)
        shift.send(40)
        account = shift.account()
        assert account.balanced
        assert account.judged == 80
        assert metric(daemon, "patchline_engine_batch_limit_frames") == 2
        assert metric(daemon, "patchline_engine_out_of_memory_total") <= 2
        assert metric(daemon, "patchline_engine_errors_total") == 0
        assert "batches of 2 instead of 8" in troubles(daemon)["engine memory"].detail
        told = lines(daemon, "engine_out_of_memory")
        assert told[-1]["limit"] == 2
        assert "Free the device's memory" in told[-1]["advice"]
        daemon.signal(signal.SIGHUP)
        daemon.wait_for("reloaded")
        assert metric(daemon, "patchline_engine_batch_limit_frames") == 8


def test_a_device_with_little_memory_starts_with_the_batches_that_fit(start_daemon: Start) -> None:
    daemon = start_daemon('[engine]\nfaults = [{ kind = "out_of_memory", fits = 4 }]\n')
    assert metric(daemon, "patchline_engine_batch_limit_frames") == 4
    with Shift(daemon) as shift:
        shift.push(20)
        account = shift.account()
    assert account.balanced
    assert account.judged == 20


def test_a_device_without_room_for_one_picture_gives_each_part_its_engine_error(start_daemon: Start) -> None:
    fault = '{ kind = "out_of_memory", after = 2, batches = 15, fits = 0 }'
    daemon = start_daemon(f"[engine]\nbatch_sizes = [1]\nfaults = [{fault}]\n")
    with Shift(daemon) as shift:
        shift.push(20)
        account = shift.account()
    assert account.balanced
    assert account.not_inspected == {"engine_error": 15}
    assert "memory" in lines(daemon, "engine_failed")[0]["advice"]


def test_an_engine_that_hangs_for_a_while_is_told_and_then_goes_on(start_daemon: Start) -> None:
    hang = '{ kind = "hang", after = 4, batches = 1, seconds = 2.0 }'
    daemon = start_daemon(f"{ONE_BY_ONE}faults = [{hang}]\n[service]\nstuck_s = 0.2\n")
    with Shift(daemon) as shift:
        shift.push(10)
        shift.send(10)
        told = daemon.wait_for("stuck")
        assert told["hangs"] == "engine"
        assert "watchdog" in told["advice"]
        daemon.wait_for("going_on")
        account = shift.account()
    assert account.balanced
    assert account.judged == 20


def test_after_an_engine_that_never_comes_back_a_restart_accounts_for_every_part(start_daemon: Start) -> None:
    hang = f'{ONE_BY_ONE}faults = [{{ kind = "hang", after = 6 }}]\n'
    first = start_daemon(f"{hang}[service]\nstuck_s = 0.2\n")
    with Shift(first) as shift:
        shift.push(10)
        shift.send(10)
        until(lambda: page(first, "/healthz") == (503, "Work waits and the engine finished none within 0.2 s.\n"))
        assert troubles(first)["health"].status == "fail"
        # What systemd does when its watchdog isn't fed.
        first.signal(signal.SIGABRT)
        first.wait()
        second = start_daemon(config=on_the_same_addresses(first, without=hang))
        shift.push(1)
        assert shift.sending.flush(60)
        until(lambda: any(v.camera == PUSHED and v.seq == 10 for v in journalled(second)))
        account = Account.of(shift.sent, journalled(second))
    assert account.balanced
    assert set(account.not_inspected) <= {str(Reason.MISSING)}
    assert all(verdict.reason is None for verdict in journalled(second) if verdict.camera == ACKED)


def test_an_engine_that_fails_its_trial_stops_the_start_in_one_line(tmp_path: Path, sleeping_banks: Path) -> None:
    config = write_config(tmp_path, sleeping_banks, '[engine]\nfaults = [{ kind = "raise" }]\n')
    done = patchline("serve", "--config", str(config))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "error: The engine failed its trial inspection: RuntimeError: The device was lost (a rehearsed fault). "
        "Run `patchline doctor`: it checks device, weights and banks."
    )
