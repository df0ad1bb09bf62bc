"""Pictures that take long to decode, or would: the daemon works on them, and nobody takes it for stuck."""

import numpy as np

from daemon.outcomes import Reason
from patchcore_engine import images
from tests.daemon.serving import Start, page, until
from tests.daemon.shift import Shift, lines
from tests.engine.picture_bombs import folded_zeros, png


def test_png_bombs_are_undecodable_and_the_daemon_is_well(start_daemon: Start) -> None:
    """Each would take half a minute to decode."""
    daemon = start_daemon("[service]\nstuck_s = 5\n")
    bomb = png(4000, 4000, folded=folded_zeros(16_000_000))
    with Shift(daemon) as shift:
        for _ in range(8):
            shift.sending.send(bomb)
        account = shift.account()
    assert account.balanced
    assert shift.reasons() == {Reason.UNDECODABLE}
    assert (page(daemon, "/healthz")[0], lines(daemon, "stuck")) == (200, [])


def test_a_batch_of_which_each_picture_is_slow_to_decode_isnt_stuck(start_daemon: Start) -> None:
    """All of them take twice what `stuck_s` allows on a machine at rest, each a twentieth."""
    daemon = start_daemon("[engine]\nbatch_sizes = [40]\n[intake]\nwindow = 40\n[service]\nstuck_s = 3\n")
    slow = images.encode_png(np.zeros((6000, 8000), np.uint8))
    with Shift(daemon) as shift:
        for _ in range(40):
            shift.sending.send(slow)
        account = shift.account()
    assert account.balanced
    assert account.judged == 40
    assert (page(daemon, "/healthz")[0], lines(daemon, "stuck")) == (200, [])


def test_frames_that_are_refused_meanwhile_dont_hide_that_the_engine_hangs(start_daemon: Start) -> None:
    hang = '{ kind = "hang", after = 3, batches = 1, seconds = 5.0 }'
    daemon = start_daemon(f"[engine]\nbatch_sizes = [1]\nfaults = [{hang}]\n[service]\nstuck_s = 0.2\n")
    with Shift(daemon) as shift:
        shift.push(2)

        def told() -> bool:
            shift.sending.send(b"\x89PNG\r\n\x1a\nand no more")
            return page(daemon, "/healthz")[0] == 503

        until(told)
        daemon.wait_for("going_on")
        account = shift.account()
    assert account.balanced
    assert lines(daemon, "stuck")[0]["hangs"] == "engine"
