"""Publishing: topics, subscriber counts, and that no subscriber can hold it up."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import zmq

from daemon import subscriptions
from daemon.messages import HeatmapHeader, Verdict
from daemon.outcomes import Outcome
from daemon.publisher import Publisher
from tests.daemon.heatmap_header import heatmap_header
from tests.daemon.line import Peer
from tests.daemon.zmtp import RawPeer, message

WELL = Verdict(camera="left", stream=1, seq=2, offset=3, verdict=Outcome.FAIL, captured_ns=0, received_ns=0)
HEATMAP = heatmap_header(WELL)


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


def test_with_too_many_readers_of_heat_maps_none_is_wanted_until_some_are_gone(publisher: Publisher) -> None:
    with ExitStack() as readers:
        for topic in (b"heatmap/a", b"heatmap/b", b"heatmap/", b""):
            readers.enter_context(Peer(zmq.SUB, publisher.address)).socket.subscribe(topic)
            wait_for_subscription(publisher)
        assert publisher.heatmaps_wanted
        with Peer(zmq.SUB, publisher.address) as fifth:
            fifth.socket.subscribe(b"heatmap/")
            wait_for_subscription(publisher)
            assert not publisher.heatmaps_wanted
        while not publisher.heatmaps_wanted:
            wait_for_subscription(publisher)


def test_a_reader_counts_once_and_no_longer_than_it_is_there_whatever_it_says(publisher: Publisher) -> None:
    with Peer(zmq.SUB, publisher.address) as reader:
        reader.socket.subscribe(b"heatmap/")
        wait_for_subscription(publisher)
        with RawPeer(publisher.address).greet("SUB") as restless:
            restless.say(message(b"\1heatmap/") * 5 + message(b"\1heatmap/left") + message(b"\1verdict/"))
            while not publisher.subscribers:
                wait_for_subscription(publisher)
            assert publisher.heatmap_subscribers == 2
            restless.say(message(b"\0heatmap/right") * 9 + message(b"\0heatmap/") * 9 + message(b"\1verdict/left"))
            restless.say(message(b"\0verdict/") + message(b"\0verdict/left"))
            while publisher.subscribers:
                wait_for_subscription(publisher)
            assert publisher.heatmap_subscribers == 2
            restless.say(message(b"\0heatmap/left"))
            while publisher.heatmap_subscribers > 1:
                wait_for_subscription(publisher)
            restless.say(message(b"\1heatmap/") * 5 + message(b"\1verdict/"))
            while not publisher.subscribers:
                wait_for_subscription(publisher)
        while publisher.subscribers:
            wait_for_subscription(publisher)
        assert (publisher.heatmap_subscribers, publisher.heatmaps_wanted) == (1, True)


def test_a_reader_of_more_topics_than_are_remembered_counts_until_it_leaves(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "MOST_TOPICS", 3)
    topics = [b"heatmap/%d" % number for number in range(5)]
    with RawPeer(publisher.address).greet("SUB") as greedy:
        greedy.say(b"".join(message(b"\1" + topic) for topic in topics))
        greedy.say(b"".join(message(b"\0" + topic) for topic in topics) + message(b"\1verdict/"))
        while not publisher.subscribers:
            wait_for_subscription(publisher)
        assert publisher.heatmap_subscribers == 1
    while publisher.heatmap_subscribers:
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
