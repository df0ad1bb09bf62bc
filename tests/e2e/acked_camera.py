"""A camera on a host of its own: python -m tests.e2e.acked_camera ADDRESS CAMERA PERIOD_S

Sends a part each period until its standard input ends, then waits for the last acknowledgement. Prints, a line each,
how many are acknowledged, and at its end `{"stream": ..., "sent": ..., "resent": ..., "acked": [[seq, offset], ...]}`.
"""

import json
import sys
import threading

import numpy as np

from daemon.client import FrameSender
from daemon.messages import Verdict

PATIENCE_S = 120.0
# More parts than come while the network is cut.
BUFFER_FRAMES = 10_000


def main(address: str, camera: str, period_s: float) -> int:
    acked: list[tuple[int, int | None]] = []

    def note(verdict: Verdict) -> None:
        acked.append((verdict.seq, verdict.offset))
        print(len(acked), flush=True)

    # The parts of `tests.daemon.conftest`, which takes long to import.
    pictures = [np.random.default_rng(n).integers(100, 110, (64, 64), dtype=np.uint8) for n in range(10)]
    over = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    sender = FrameSender(address, camera, buffer_frames=BUFFER_FRAMES, on_ack=note)
    while not over.wait(period_s):
        sender.send(pictures[sender.sent % len(pictures)])
    flushed = sender.flush(PATIENCE_S)
    sender.close()
    print(json.dumps({"stream": sender.stream, "sent": sender.sent, "resent": sender.resent, "acked": acked}))
    return 0 if flushed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
