"""Cameras that push raw mono frames as fast as the daemon takes them, or at a set rate. Runs as a process of its own.

    python -m tests.benchmarks.load ADDRESS --frames N --cameras N --rate FPS --height H --width W --stream N
        [--keys OWN SERVER]

With a rate, `captured_ns` is when a frame was due, so that a late start counts as latency.
"""

import argparse
import time
from pathlib import Path

import msgpack
import numpy as np
import zmq
from numpy.typing import NDArray

from daemon.keys import ClientKeys
from daemon.sockets import connect

# Frames that wait in this process when the daemon takes none.
SEND_HIGH_WATER_MARK = 4
PICTURES = 10


def pictures(height: int, width: int) -> list[NDArray[np.uint8]]:
    """Nine plain parts with noise and one with a bright blob."""
    random = np.random.default_rng(0)
    drawn = [random.integers(100, 110, (height, width), dtype=np.uint8) for _ in range(PICTURES)]
    drawn[-1][height // 3 : height // 2, width // 3 : width // 2] = 250
    return drawn


def camera_names(count: int) -> list[str]:
    return [f"cam{number}" for number in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    for name in ("frames", "cameras", "height", "width", "stream"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--keys", type=Path, nargs=2, metavar=("OWN", "SERVER"))
    asked = parser.parse_args()
    keys = ClientKeys.read(*asked.keys) if asked.keys is not None else None
    parts = pictures(asked.height, asked.width)
    cameras = camera_names(asked.cameras)
    with zmq.Context() as context:
        sockets = []
        for _ in cameras:
            opened = context.socket(zmq.PUSH)
            opened.sndhwm = SEND_HIGH_WATER_MARK
            opened.linger = 60_000
            connect(opened, asked.address, keys)
            sockets.append(opened)
        header = {"v": 1, "stream": asked.stream, "encoding": "raw", "shape": [asked.height, asked.width]}
        period_ns = int(1e9 / asked.rate) if asked.rate else 0
        begin_ns = time.time_ns() + 200_000_000
        for number in range(asked.frames):
            due_ns = begin_ns + number * period_ns
            if period_ns and (early_ns := due_ns - time.time_ns()) > 0:
                time.sleep(early_ns / 1e9)
            seq, camera = divmod(number, len(cameras))
            header |= {"camera": cameras[camera], "seq": seq, "captured_ns": due_ns if period_ns else time.time_ns()}
            sockets[camera].send(msgpack.packb(header), zmq.SNDMORE)
            sockets[camera].send(parts[number % PICTURES].data, copy=False)
        for opened in sockets:
            opened.close()


if __name__ == "__main__":
    main()
