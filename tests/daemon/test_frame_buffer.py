"""What a sender keeps, and how much of it may be under way."""

from daemon.frame_buffer import FrameBuffer


def header(seq: int) -> bytes:
    return bytes([seq])


def full_under_way(frames: int, window: int) -> FrameBuffer:
    """A buffer for `frames` frames that drops the oldest, with the frames of a whole window sent."""
    buffer = FrameBuffer(frames, "drop_oldest", 0)
    for seq in range(window):
        buffer.add(header, b"")
        sent = buffer.take(window)
        assert sent is not None
        assert sent.seq == seq
    return buffer


def test_a_frame_dropped_under_way_holds_its_place_in_the_window_until_it_is_acknowledged() -> None:
    buffer = full_under_way(frames=4, window=8)
    assert buffer.dropped == 4
    buffer.add(header, b"")
    assert buffer.take(8) is None
    assert not buffer.acknowledge(0)
    waiting = buffer.take(8)
    assert waiting is not None
    assert waiting.seq == 8
    assert buffer.take(8) is None


def test_a_frame_dropped_under_way_leaves_the_window_once() -> None:
    buffer = full_under_way(frames=1, window=2)
    assert not buffer.acknowledge(0)
    assert not buffer.acknowledge(0)
    buffer.add(header, b"")
    buffer.add(header, b"")
    assert [frame is not None for frame in (buffer.take(2), buffer.take(2))] == [True, False]


def test_a_frame_dropped_under_way_counts_no_more_when_its_session_has_ended() -> None:
    buffer = full_under_way(frames=2, window=4)
    buffer.rewind()
    assert [buffer.take(2), buffer.take(2), buffer.take(2)].count(None) == 1
