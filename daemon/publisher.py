"""Verdicts and heat maps out: one XPUB socket, owned by the thread that publishes."""

from collections.abc import Callable
from typing import Final

import structlog
import zmq

from daemon.door_socket import OPEN, Access, DoorSocket
from daemon.log_limit import LogLimit
from daemon.messages import HEATMAP_TOPIC, VERDICT_TOPIC, HeatmapHeader, Verdict
from daemon.sockets import ZmqContext
from daemon.subscriptions import Subscriptions

log = structlog.get_logger()

# Topics have 72 bytes at most, and the longest command of a handshake with CURVE 544.
MAX_SUBSCRIPTION_BYTES: Final = 640
# That one connection may have waiting inside ZeroMQ.
SUBSCRIPTIONS_AHEAD: Final = 16
# Subscription messages handled per call, so that no subscriber can hold the publishing thread.
SUBSCRIPTIONS_PER_CALL: Final = 256
LINGER_MS: Final = 500
# ZeroMQ keeps 43 bytes for each byte of a topic. 1,024 topics of the longest names are a third of this.
MOST_SUBSCRIBED_BYTES: Final = 256 * 1024
# ZeroMQ looks through the topics of all to forget those of one.
MOST_SUBSCRIBED_TOGETHER: Final = 2 * 2**20


class Publisher:
    """Publishes to any number of subscribers and waits for none: what a slow one misses it reads by replay.

    `high_water_mark`: messages that may wait for one subscriber before further ones are dropped for it. `on_behind` is
    called when that begins for a subscriber, and again when it has read on and falls behind anew.
    `most_heatmaps`: with more readers of heat maps none are wanted, so that what may wait is bounded in bytes.
    All methods belong to one thread, which need not be the one that made the object. Raises BindError.
    """

    def __init__(
        self,
        context: ZmqContext,
        address: str,
        *,
        high_water_mark: int = 1000,
        most_heatmaps: int = 4,
        on_behind: Callable[[], None] = lambda: None,
        access: Access = OPEN,
    ) -> None:
        self.door = DoorSocket(
            context,
            zmq.XPUB,
            address,
            access,
            most_unfinished_bytes=MOST_SUBSCRIBED_BYTES,
            most_unfinished_together=MOST_SUBSCRIBED_TOGETHER,
            rcvhwm=SUBSCRIPTIONS_AHEAD,
            sndhwm=high_water_mark,
            xpub_verboser=1,
            xpub_nodrop=1,
            maxmsgsize=MAX_SUBSCRIPTION_BYTES,
        )
        self._high_water_mark = high_water_mark
        self._on_behind = on_behind
        self._behind_log = LogLimit()
        self._socket, self.address = self.door.socket, self.door.address
        # Not the socket's EVENTS: who asks for them holds Python's lock as long as a flood of subscriptions lasts.
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._most_heatmaps = most_heatmaps
        self._subscriptions = Subscriptions()
        self._crowded = False

    @property
    def subscribers(self) -> int:
        """Readers of verdicts, of one camera or of all."""
        return self._subscriptions.to_verdicts

    @property
    def heatmap_subscribers(self) -> int:
        """Readers of heat maps, of one camera or of all."""
        return self._subscriptions.to_heatmaps

    @property
    def heatmaps_wanted(self) -> bool:
        """Whether anyone, and not too many, have subscribed to heat maps; drawing them for nobody would cost time."""
        self.update()
        return 0 < self._subscriptions.to_heatmaps <= self._most_heatmaps

    def publish(self, verdict: Verdict, heatmap: tuple[HeatmapHeader, bytes] | None = None) -> None:
        """Send a verdict, then its heat map, to whoever has subscribed. Never blocks."""
        self.update()
        camera = verdict.camera.encode()
        self._send([VERDICT_TOPIC + camera, verdict.pack()])
        if heatmap is not None:
            header, payload = heatmap
            self._send([HEATMAP_TOPIC + camera, header.pack(), payload])

    def update(self) -> None:
        """Take in waiting subscriptions, or a new key; `publish` does so too, an idle publisher calls it at times."""
        self.door.change_key_if_asked()
        for _ in range(SUBSCRIPTIONS_PER_CALL):
            # Asking first takes a third of the time that an empty socket's exception does.
            if not self._poller.poll(0):
                break
            self._subscriptions.note(self._socket.recv(zmq.NOBLOCK, copy=False))
        if self._subscriptions.count():
            self._tell_if_crowded()

    def close(self) -> None:
        """Close the socket; what subscribers have not fetched yet has LINGER_MS to leave."""
        self.door.close(LINGER_MS)

    def _send(self, parts: list[bytes]) -> None:
        try:
            self._socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.Again:
            # Somebody's queue is full: tell it, and send to the others. ZeroMQ leaves him out until he has read on.
            self._on_behind()
            if (held_back := self._behind_log.due()) is not None:
                log.warning(
                    "subscriber_behind",
                    high_water_mark=self._high_water_mark,
                    held_back=held_back,
                    advice="A subscriber reads too slowly or not at all and now misses messages. VerdictStream has its "
                    "verdicts again by replay; end, or mend, whoever doesn't read.",
                )
            self._socket.setsockopt(zmq.XPUB_NODROP, 0)
            self._socket.send_multipart(parts, zmq.NOBLOCK)
            self._socket.setsockopt(zmq.XPUB_NODROP, 1)

    def _tell_if_crowded(self) -> None:
        crowded = self._subscriptions.to_heatmaps > self._most_heatmaps
        if crowded and not self._crowded:
            log.warning(
                "heatmaps_withheld",
                readers=self._subscriptions.to_heatmaps,
                advice="End readers of heat maps that nobody needs, or raise publish.heatmap_subscriptions.",
            )
        self._crowded = crowded
