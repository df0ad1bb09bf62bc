"""A camera of the push door that connects anew while the daemon is behind: frames wait on both of its connections."""

import msgpack
import pytest
import zmq

from daemon.messages import Verdict
from daemon.outcomes import Reason
from patchcore_engine.images import encode_png
from tests.daemon.conftest import DaemonProcess, good_part
from tests.daemon.serving import Start, metric, until, verdicts_of

EACH = 30
# Both recipes' trial inspections at the start are the first two batches.
BEHIND = {
    "saturated": "sleep_ms = 20",
    "held up": 'faults = [{ kind = "hang", after = 7, batches = 1, seconds = 2 }]',
}
RECONNECTS: dict[str, tuple[int | None, int | None, int]] = {
    "goes on": (7, 7, EACH),
    "lost three in the cut": (7, 7, EACH + 3),
    "was restarted": (7, 8, 0),
    "goes on and states no stream": (None, None, EACH),
    "was restarted and states no stream": (None, None, 0),
}


def send(daemon: DaemonProcess, stream: int | None, seqs: range) -> None:
    """Over a connection of its own, which is closed once all are on their way."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as camera:
        camera.sndhwm = len(seqs)
        camera.connect(daemon.addresses["push"])
        for seq in seqs:
            header = {"v": 1, "camera": "cam1", "stream": stream, "seq": seq, "captured_ns": 0, "encoding": "png"}
            camera.send_multipart([msgpack.packb(header), encode_png(good_part(seq))])


def told(verdict: Verdict) -> tuple[int, Reason | None]:
    return verdict.seq, verdict.reason


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("reconnect", RECONNECTS)
def test_a_camera_that_reconnects_while_frames_wait_has_each_part_told_once_and_in_order(
    start_daemon: Start, behind: str, reconnect: str
) -> None:
    first_stream, second_stream, second_seq = RECONNECTS[reconnect]
    daemon = start_daemon(f'[engine]\nbatch_sizes = [1]\n{BEHIND[behind]}\n[queue]\nframes = 3\nshed = "block"\n')
    send(daemon, first_stream, range(EACH))
    until(lambda: metric(daemon, "patchline_queue_frames") >= 3)
    send(daemon, second_stream, range(second_seq, second_seq + EACH))

    lost = range(EACH, max(second_seq, EACH))
    expected: list[tuple[int, Reason | None]] = [(seq, None) for seq in range(EACH)]
    expected += [(seq, Reason.MISSING) for seq in lost]
    expected += [(seq, None) for seq in range(second_seq, second_seq + EACH)]
    verdicts = verdicts_of(daemon, len(expected))

    assert [told(verdict) for verdict in verdicts] == expected
    assert len({verdict.stream for verdict in verdicts}) == (2 if second_seq == 0 else 1)
    assert metric(daemon, 'patchline_duplicate_frames_total{camera="cam1"}') == 0
