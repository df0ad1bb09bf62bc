"""A camera that loses no part: python camera_acked.py tcp://127.0.0.1:5556 cam0 pictures/*.png

Each frame is kept until the daemon has its verdict on disk, and sent again if the daemon restarts meanwhile.
"""

import sys
from pathlib import Path

from daemon.client import FrameSender, Verdict

address, name, *pictures = sys.argv[1:]


def acknowledged(verdict: Verdict) -> None:
    print(f"{verdict.part}: {verdict.verdict}", flush=True)


with FrameSender(address, name, on_ack=acknowledged) as camera:
    for picture in pictures:
        camera.send(Path(picture).read_bytes(), part=Path(picture).name)
    if not camera.flush(timeout_s=60):
        sys.exit(f"{camera.pending} of {camera.sent} parts have no verdict: don't ship them.")
