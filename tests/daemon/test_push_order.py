"""The order of frames at the push door, without sockets: libzmq's fair queue in a model, and all that it can make."""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from daemon.intake import Moment
from daemon.messages import FrameHeader
from daemon.push_order import (
    MESSAGES_PER_CAMERA,
    MOST_EMPTY_READS,
    MOST_HELD,
    NEWER_IN_A_ROW,
    QUIET_MS,
    PushedFrame,
    PushOrder,
)

MS = 1_000_000
Identity = tuple[str, int | None, int]


def frame(seq: int, *, camera: str = "left", stream: int | None = 1, size: int = 10) -> PushedFrame:
    header = FrameHeader(v=1, camera=camera, stream=stream, seq=seq, captured_ns=0, encoding="png")
    return PushedFrame(header, memoryview(bytes(size)), None, Moment(0, 0))


def identity(of: PushedFrame) -> Identity:
    return of.header.camera, of.header.stream, of.header.seq


class Door:
    """Does with a `PushOrder` what ingest does, and writes down what went on."""

    def __init__(self, *, max_cameras: int = 4, max_streams: int = 4, max_bytes: int = 10_000) -> None:
        self.order = PushOrder(max_cameras=max_cameras, max_streams=max_streams, max_bytes=max_bytes)
        self.now_ns = 0
        self.passed: list[Identity] = []

    def take(self, *frames: PushedFrame) -> None:
        for one in frames:
            if self.order.is_next(one.header):
                self.passed.append(identity(one))
            else:
                self.order.add(one, self.now_ns)
            if self.order.holding:
                self.order.note_message(self.now_ns)
            self._pass_on()

    def find_empty(self) -> None:
        self.order.note_empty(self.now_ns)
        self._pass_on()

    def wait(self, ms: float) -> None:
        self.now_ns += int(ms * MS)

    def end(self) -> None:
        self.order.release_all()
        self._pass_on()

    @property
    def seqs(self) -> list[int]:
        return [seq for _camera, _stream, seq in self.passed]

    def passed_of(self, camera: str) -> list[Identity]:
        return [one for one in self.passed if one[0] == camera]

    def seqs_of(self, camera: str) -> list[int]:
        return [seq for _camera, _stream, seq in self.passed_of(camera)]

    def _pass_on(self) -> None:
        while (due := self.order.next_due()) is not None:
            self.passed.append(identity(due))


class Pipe:
    """What waits of one connection. `behind`: what ZeroMQ's thread hands on `delays_ms` after room was made for it."""

    def __init__(
        self, frames: Iterable[PushedFrame], behind: Iterable[PushedFrame] = (), delays_ms: Sequence[int] = (0,)
    ) -> None:
        self.waiting = deque(frames)
        self.under_way: deque[tuple[int, PushedFrame]] = deque()
        self._behind = deque(behind)
        self._delays_ms = delays_ms
        self._popped = 0

    def pop(self, now_ns: int) -> PushedFrame:
        if self._behind:
            delay_ms = self._delays_ms[self._popped % len(self._delays_ms)]
            self.under_way.append((now_ns + delay_ms * MS, self._behind.popleft()))
        self._popped += 1
        return self.waiting.popleft()

    def hand_on(self, now_ns: int) -> None:
        while self.under_way and self.under_way[0][0] <= now_ns:
            self.waiting.append(self.under_way.popleft()[1])


class FairQueue:
    """libzmq's fq_t, step by step."""

    def __init__(self, pipes: Sequence[Pipe], current: int) -> None:
        self._pipes = list(pipes)
        self._active = len(self._pipes)
        self._current = current % self._active

    @property
    def left(self) -> bool:
        return any(pipe.waiting or pipe.under_way for pipe in self._pipes)

    def receive(self, now_ns: int) -> PushedFrame | None:
        for pipe in self._pipes:
            pipe.hand_on(now_ns)
        for pipe in [pipe for pipe in self._pipes[self._active :] if pipe.waiting]:
            self._swap(self._pipes.index(pipe), self._active)
            self._active += 1
        while self._active:
            pipe = self._pipes[self._current]
            if pipe.waiting:
                self._current = (self._current + 1) % self._active
                return pipe.pop(now_ns)
            self._active -= 1
            self._swap(self._current, self._active)
            if self._current == self._active:
                self._current = 0
        return None

    def _swap(self, one: int, other: int) -> None:
        self._pipes[one], self._pipes[other] = self._pipes[other], self._pipes[one]


def drain(door: Door, queue: FairQueue, steps_ms: Sequence[int]) -> None:
    """Read all that comes, each time after one of the `steps_ms`."""
    reads = 0
    while queue.left or door.order.holding:
        received = queue.receive(door.now_ns)
        if received is None:
            door.find_empty()
            door.wait(1)
        else:
            door.take(received)
        door.wait(steps_ms[reads % len(steps_ms)])
        reads += 1


@st.composite
def losing(draw: st.DrawFn, numbers: range) -> list[int]:
    """Some of the numbers."""
    kept = draw(st.lists(st.booleans(), min_size=len(numbers), max_size=len(numbers)))
    return [seq for seq, keep in zip(numbers, kept, strict=True) if keep]


Reconnect = tuple[PushedFrame, list[list[PushedFrame]]]


@st.composite
def reconnects(draw: st.DrawFn) -> Reconnect:
    """A frame that came before, and those of two or three connections, one after the other; any are lost."""
    streams: list[int | None] = draw(st.sampled_from([[1, 1, 1], [1, 1, 2], [1, 2, 2], [None, None, None]]))
    connections, seq, before = [], 11, streams[0]
    for stream in streams[: draw(st.integers(2, 3))]:
        seq = seq if stream == before else 0
        length = draw(st.integers(0, 8))
        connections.append([frame(number, stream=stream) for number in draw(losing(range(seq, seq + length)))])
        seq, before = seq + length, stream
    return frame(10, stream=streams[0]), connections


@st.composite
def queues(draw: st.DrawFn, pipes: Sequence[Pipe]) -> FairQueue:
    """These connections beside those of other cameras, which have frames for a while, in any order of the circle."""
    lengths = draw(st.lists(st.integers(1, 60), max_size=3))
    others = [Pipe(frame(seq, camera=f"other{n}") for seq in range(length)) for n, length in enumerate(lengths)]
    return FairQueue(draw(st.permutations([*pipes, *others])), draw(st.integers(0, 5)))


STEPS_MS = st.lists(st.sampled_from([0, 0, 1, 7, QUIET_MS, 500]), min_size=1, max_size=9)


@given(st.data(), reconnects(), STEPS_MS)
def test_frames_that_wait_on_several_connections_come_out_in_order_and_once(
    data: st.DataObject, reconnect: Reconnect, steps_ms: list[int]
) -> None:
    before, connections = reconnect
    door = Door()
    door.take(before)
    drain(door, data.draw(queues([Pipe(frames) for frames in connections])), steps_ms)
    assert door.passed_of("left") == [identity(one) for one in [before, *chain(*connections)]]


@given(st.data(), st.lists(st.integers(0, QUIET_MS - 2), min_size=1, max_size=5), STEPS_MS)
def test_an_old_connection_that_zeromq_still_reads_on_comes_before_the_new_one(
    data: st.DataObject, delays_ms: list[int], steps_ms: list[int]
) -> None:
    old = [frame(seq) for seq in data.draw(losing(range(11, 22)))]
    new = [frame(seq) for seq in data.draw(losing(range(22, 50)))]
    door = Door()
    door.take(frame(10))
    pipes = [Pipe(frames[:3], frames[3:], delays_ms) for frames in (old, new)]
    drain(door, data.draw(queues(pipes)), steps_ms)
    assert door.seqs_of("left") == [10, *(one.header.seq for one in [*old, *new])]


@given(st.lists(st.booleans(), max_size=15))
def test_a_restart_without_a_stream_comes_after_the_rest_of_the_old_connection(turns: list[bool]) -> None:
    old, new = ([frame(seq, stream=None) for seq in numbers] for numbers in (range(51, 60), range(15)))
    rest, later = deque(old), deque(new)
    door = Door()
    door.take(frame(50, stream=None))
    for turn in turns:
        door.take(rest.popleft() if turn and rest else later.popleft())
    door.take(*rest, *later)
    door.end()
    assert door.seqs == [*range(50, 60), *range(15)]


def test_a_frame_in_turn_goes_straight_on() -> None:
    door = Door()
    door.take(*(frame(seq) for seq in range(100)))
    assert door.seqs == [*range(100)]
    assert not door.order.holding


def test_a_number_that_was_handed_on_goes_straight_on_again() -> None:
    door = Door()
    door.take(frame(5), frame(6), frame(5), frame(6), frame(7))
    assert door.seqs == [5, 6, 5, 6, 7]


def test_a_gap_is_told_once_the_door_is_empty_and_quiet() -> None:
    door = Door()
    door.take(frame(5), frame(8), frame(9))
    door.find_empty()
    assert door.seqs == [5]
    door.wait(QUIET_MS)
    door.find_empty()
    assert door.seqs == [5, 8, 9]
    door.take(frame(10))
    assert door.seqs == [5, 8, 9, 10]


def test_an_older_frame_renews_the_wait_for_those_before_it_alone() -> None:
    door = Door()
    door.take(frame(5), frame(8), frame(12))
    door.wait(QUIET_MS)
    door.take(frame(9))
    door.find_empty()
    assert door.seqs == [5, 8, 9]
    door.wait(QUIET_MS)
    door.find_empty()
    assert door.seqs == [5, 8, 9, 12]


def test_at_a_door_that_is_never_empty_a_gap_is_told_after_a_few_frames_more() -> None:
    door = Door()
    door.take(frame(5), frame(8))
    door.wait(QUIET_MS)
    door.take(*(frame(9 + n) for n in range(NEWER_IN_A_ROW - 1)))
    assert door.seqs == [5]
    door.take(frame(8 + NEWER_IN_A_ROW))
    assert door.seqs == [5, *range(8, 9 + NEWER_IN_A_ROW)]


def test_a_camera_that_falls_silent_after_a_gap_is_not_forgotten_at_a_door_that_is_never_empty() -> None:
    door = Door(max_cameras=4)
    door.take(frame(5), frame(8))
    door.wait(QUIET_MS)
    door.take(*(frame(seq, camera="right") for seq in range(4 * MESSAGES_PER_CAMERA)))
    assert door.seqs_of("left") == [5, 8]


def test_a_camera_that_sends_by_two_living_connections_is_not_held_for_ever() -> None:
    door = Door()
    for n in range(2 * MOST_EMPTY_READS):
        door.take(frame(n, stream=1), frame(n, stream=2))
        door.find_empty()
        door.wait(QUIET_MS / 2)
        door.take(frame(1000 + n, camera="right"))
        door.wait(QUIET_MS / 2)
    door.take(frame(99, stream=1))
    assert ("left", 2, 2 * MOST_EMPTY_READS - 1) in door.passed


def test_what_is_held_is_bounded_and_the_oldest_hold_ends_first() -> None:
    door = Door(max_bytes=100)
    for camera in ("left", "right"):
        door.take(frame(0, camera=camera), frame(2, camera=camera, size=60))
    assert door.seqs_of("left") == [0, 2]
    assert door.seqs_of("right") == [0]
    assert (door.order.held_frames, door.order.held_bytes) == (1, 60)


def test_a_camera_that_makes_room_for_another_keeps_its_frames_and_is_then_unknown() -> None:
    door = Door(max_cameras=2)
    door.take(frame(0), frame(2), frame(0, camera="b"), frame(0, camera="c"))
    assert door.seqs_of("left") == [0, 2]
    door.take(frame(9))
    assert door.seqs_of("left") == [0, 2, 9]


ANY_FRAME = st.builds(
    frame,
    st.integers(0, 12),
    camera=st.sampled_from("abcdef"),
    stream=st.sampled_from([None, 1, 2, 3, 4]),
    size=st.integers(0, 40),
)


@given(st.lists(st.tuples(ANY_FRAME, st.sampled_from([0, 1, QUIET_MS]), st.booleans()), max_size=400))
def test_whatever_comes_leaves_once_and_no_more_is_held_than_the_bounds(
    messages: list[tuple[PushedFrame, int, bool]],
) -> None:
    door = Door(max_cameras=3, max_streams=2, max_bytes=300)
    for one, step_ms, empty in messages:
        door.take(one)
        door.wait(step_ms)
        if empty:
            door.find_empty()
        assert door.order.held_bytes <= 300
    door.end()
    assert Counter(door.passed) == Counter(identity(one) for one, _, _ in messages)
    assert (door.order.holding, door.order.held_frames, door.order.held_bytes) == (False, 0, 0)


def test_no_more_small_frames_are_held_than_the_bound() -> None:
    door = Door(max_bytes=10**9)
    for seq in range(3 * MOST_HELD):
        door.take(frame(2 * seq, size=0))
        assert door.order.held_frames <= MOST_HELD
