"""Attackers of a daemon's memory."""

import threading

from daemon.config import MIB
from tests.daemon.zmtp import RawPeer, part

# The budget is 1.8 GiB, and one connection's largest messages, as parts of no bytes, would take 2.4.
SMALL_BUDGET = (
    "[engine]\nbatch_sizes = [1]\n[intake]\nmax_cameras = 2\nmax_frame_bytes = 16777216\n"
    "[queue]\nbytes = 16777216\nframes = 16\n[publish]\nhigh_water_mark = 10\n"
)
EMPTY_PARTS = part(b"", more=True) * 32768
# What all attackers together send before they give up; of 50 the kernel alone holds 200 MiB.
MOST_SENT = 800 * MIB


class Attack:
    """Connections that send `parts` of a message that never ends, all at once, until the daemon has cut every one."""

    def __init__(
        self, address: str, kind: str, connections: int, parts: bytes = EMPTY_PARTS, most: int = MOST_SENT
    ) -> None:
        self._parts, self._most = parts, most
        self._peers = [RawPeer(address).greet(kind) for _ in range(connections)]
        self._threads = [threading.Thread(target=self._send, args=(peer,)) for peer in self._peers]
        self.sent = 0

    def _send(self, peer: RawPeer) -> None:
        while self.sent < self._most and peer.say(self._parts):
            self.sent += len(self._parts)

    def __enter__(self) -> "Attack":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_args: object) -> None:
        for thread in self._threads:
            thread.join()
        for peer in self._peers:
            peer.socket.close()
