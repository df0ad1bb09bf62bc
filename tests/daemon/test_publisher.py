"""Publishing: topics, subscriber counts, and that no subscriber can hold it up."""

from collections.abc import Iterator

import pytest
import zmq

from daemon.messages import HeatmapHeader, Verdict
from daemon.outcomes import Outcome
from daemon.publisher import Publisher
from tests.daemon.line import Peer

WELL = Verdict(camera="left", stream=1, seq=2, offset=3, verdict=Outcome.FAIL, captured_ns=0, received_ns=0)
HEATMAP = HeatmapHeader(
    camera="left",
    stream=1,
    seq=2,
    offset=3,
    encoding="png",
    height=2,
    width=2,
    rect=(0.0, 0.0, 2.0, 2.0),
    frame_height=2,
    frame_width=2,
)


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    opened = Publisher(context, "tcp://127.0.0.1:0", high_water_mark=10)
    yield opened
    opened.close()
    context.term()


def wait_for_subscription(publisher: Publisher) -> None:
    assert publisher._socket.poll(20_000)
    publisher.update()


def test_a_verdict_and_its_heat_map_are_published_under_their_topics(publisher: Publisher) -> None:
    with Peer(zmq.SUB, publisher.address) as subscriber:
        subscriber.socket.subscribe(b"")
        wait_for_subscription(publisher)
        publisher.publish(WELL, (HEATMAP, b"picture"))
        topic, body = subscriber.receive()
        assert (topic, Verdict.unpack(body)) == (b"verdict/left", WELL)
        topic, header, payload = subscriber.receive()
        assert (topic, HeatmapHeader.unpack(header), payload) == (b"heatmap/left", HEATMAP, b"picture")


def test_subscriptions_are_counted_until_their_subscriber_goes(publisher: Publisher) -> None:
    assert (publisher.subscribers, publisher.heatmaps_wanted) == (0, False)
    with Peer(zmq.SUB, publisher.address) as first, Peer(zmq.SUB, publisher.address) as second:
        first.socket.subscribe(b"verdict/")
        wait_for_subscription(publisher)
        second.socket.subscribe(b"verdict/left")
        wait_for_subscription(publisher)
        assert (publisher.subscribers, publisher.heatmaps_wanted) == (2, False)
        second.socket.subscribe(b"heatmap/left")
        wait_for_subscription(publisher)
        assert (publisher.subscribers, publisher.heatmaps_wanted) == (2, True)
    while publisher.subscribers or publisher.heatmaps_wanted:
        wait_for_subscription(publisher)


def test_with_too_many_subscriptions_no_heat_map_is_wanted_until_some_are_gone(publisher: Publisher) -> None:
    with Peer(zmq.SUB, publisher.address) as first:
        for topic in (b"heatmap/a", b"heatmap/b", b"heatmap/c", b"heatmap/d"):
            first.socket.subscribe(topic)
            wait_for_subscription(publisher)
        assert publisher.heatmaps_wanted
        with Peer(zmq.SUB, publisher.address) as second:
            second.socket.subscribe(b"heatmap/")
            wait_for_subscription(publisher)
            assert not publisher.heatmaps_wanted
        while not publisher.heatmaps_wanted:
            wait_for_subscription(publisher)


def test_a_subscriber_that_reads_nothing_holds_up_neither_publisher_nor_others(publisher: Publisher) -> None:
    with Peer(zmq.SUB, publisher.address) as slow, Peer(zmq.SUB, publisher.address) as quick:
        slow.socket.rcvhwm = 1
        for subscriber in (slow, quick):
            subscriber.socket.subscribe(b"verdict/")
            wait_for_subscription(publisher)
        for _ in range(5000):
            publisher.publish(WELL)
            assert Verdict.unpack(quick.receive()[1]) == WELL


def test_a_subscriber_that_falls_behind_is_counted_when_it_begins_and_not_for_each_message() -> None:
    behind: list[None] = []
    with zmq.Context() as context:
        publisher = Publisher(context, "tcp://127.0.0.1:0", high_water_mark=10, on_behind=lambda: behind.append(None))
        with Peer(zmq.SUB, publisher.address) as slow, Peer(zmq.SUB, publisher.address) as quick:
            slow.socket.rcvhwm = 1
            for subscriber in (slow, quick):
                subscriber.socket.subscribe(b"heatmap/")
                wait_for_subscription(publisher)

            def publish(count: int) -> None:
                for _ in range(count):
                    publisher.publish(WELL, (HEATMAP, bytes(100_000)))
                    quick.receive()

            publish(10)
            assert behind == []
            # TCP's own buffers grow while they are full, so that it may begin more than once.
            publish(500)
            begun = len(behind)
            assert 0 < begun < 10
            publish(100)
            assert len(behind) == begun
            while slow.socket.poll(500):
                slow.receive()
            publish(500)
            assert len(behind) > begun
        publisher.close()


def test_rubbish_from_a_subscriber_is_ignored(publisher: Publisher) -> None:
    with Peer(zmq.XSUB, publisher.address) as hostile:
        hostile.send(b"\7rubbish")
        hostile.send(b"\1verdict/")
        while not publisher.subscribers:
            wait_for_subscription(publisher)
        publisher.publish(WELL)
        assert hostile.receive()[0] == b"verdict/left"
