"""Who has subscribed to verdicts and to heat maps, counted by connection."""

import os
import time
from dataclasses import dataclass, field
from typing import Final

import zmq

from daemon.messages import HEATMAP_TOPIC, VERDICT_TOPIC
from daemon.sockets import connection_of

# Topics of one reader and kind that are remembered; who has had more counts until its connection ends.
MOST_TOPICS: Final = 1024
LOOK_S: Final = 1.0
_SUBSCRIBE: Final = b"\1"
_UNSUBSCRIBE: Final = b"\0"


@dataclass(slots=True)
class _Reader:
    """`socket`: device and inode of the connection, which no later one has, unlike its descriptor."""

    socket: tuple[int, int]
    verdicts: set[bytes] = field(default_factory=set)
    heatmaps: set[bytes] = field(default_factory=set)


class Subscriptions:
    """Takes in what an XPUB socket tells. What a peer says counts for its own connection, and as long as that is there.

    ZeroMQ's own word that a reader has left names topics and not the reader, and each topic once, however often it was
    subscribed to; so the kernel is asked which connections are there. One that came and went before its words were
    taken in may count for the connection that has its descriptor now.
    """

    def __init__(self) -> None:
        self._readers: dict[int, _Reader] = {}
        self._changed = False
        self._look_at = 0.0
        self.to_verdicts = self.to_heatmaps = 0

    def note(self, frame: zmq.Frame) -> None:
        """Take in one message of the socket; `count` is to follow."""
        message = frame.bytes
        kind, topic = message[:1], message[1:]
        if kind not in (_SUBSCRIBE, _UNSUBSCRIBE):
            return
        connection = connection_of(frame)
        found = _socket_at(connection) if connection is not None else None
        if connection is None or found is None:
            self._look_at = 0.0
            return
        reader = self._readers.get(connection)
        if reader is None or reader.socket != found:
            reader = self._readers[connection] = _Reader(found)
        for prefix, topics in ((VERDICT_TOPIC, reader.verdicts), (HEATMAP_TOPIC, reader.heatmaps)):
            if _overlap(topic, prefix) and len(topics) < MOST_TOPICS:
                (topics.add if kind == _SUBSCRIBE else topics.discard)(topic)
        self._changed = True

    def count(self) -> bool:
        """Count again if someone came, changed or may have left; return whether it was done."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            for connection, reader in list(self._readers.items()):
                if _socket_at(connection) != reader.socket or not (reader.verdicts or reader.heatmaps):
                    del self._readers[connection]
                    self._changed = True
        if not self._changed:
            return False
        self._changed = False
        self.to_verdicts = sum(bool(reader.verdicts) for reader in self._readers.values())
        self.to_heatmaps = sum(bool(reader.heatmaps) for reader in self._readers.values())
        return True


def _socket_at(descriptor: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _overlap(topic: bytes, prefix: bytes) -> bool:
    return topic.startswith(prefix) or prefix.startswith(topic)
