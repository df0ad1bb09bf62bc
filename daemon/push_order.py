"""Keeps each camera's frames in order that come to the push door by an old connection and by a new one.

ZeroMQ hands out what waits in turns, one frame of each connection. So the rest of a connection that has ended comes out
between the frames of the one after it. A frame that skips numbers, or begins another stream, is therefore held until
those before it have come, or until the older connection is known to hold nothing more. Pure: no clock, no sockets.

How that is known: once QUIET_MS have passed without an older frame, ZeroMQ's thread has had time to hand on what the
older connection had received. If then a read finds the socket empty, nothing waits. On a socket that is never empty,
ZeroMQ's fair queueing (libzmq's fq.cpp) tells it. It visits the connections that have something in a circle, and where
one has run empty it goes on with the last of the circle instead. So a connection can be visited a second time before
another that has something, but not a third time: it is then before the other, and only the last is moved ahead. When
one has come up three times and another not at all, the other was empty; and of n connections each that has something
comes up within 2 n messages.
"""

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from daemon.errors import MessageError
from daemon.intake import Moment
from daemon.messages import FrameHeader

# Time for ZeroMQ's thread to read on where a connection was held up, also beside a network that takes every core.
QUIET_MS: Final = 20
_QUIET_NS: Final = QUIET_MS * 1_000_000
# Frames in ascending order, none of an older connection between them: of two newer connections one came up three times.
NEWER_IN_A_ROW: Final = 5
# Messages without an older frame for each camera: twice as many as there are connections, of which a camera has two.
MESSAGES_PER_CAMERA: Final = 4
# An older connection that still sends after so many empty reads, QUIET_MS apart, is not the rest of an ended one.
MOST_EMPTY_READS: Final = 10
# Small frames that are held in all.
MOST_HELD: Final = 256


@dataclass(frozen=True, slots=True)
class PushedFrame:
    """A frame as it came; with `error` it can't be inspected, and has no payload."""

    header: FrameHeader
    payload: memoryview
    error: MessageError | None
    received: Moment


@dataclass(slots=True, eq=False)
class _Run:
    """The frames of one stream. `next_seq`: the number awaited; of a run that is held whole, the one after its last."""

    rank: int
    stream: int | None
    next_seq: int
    begun: bool


class _Held(NamedTuple):
    """`place`: the run's rank and the frame's number. `arrival` is another for each, so that no frames are compared."""

    place: tuple[int, int]
    arrival: int
    run: _Run
    frame: PushedFrame

    @property
    def seq(self) -> int:
        return self.place[1]


class _Arrival(NamedTuple):
    """When a frame came, and its place."""

    place: tuple[int, int]
    at_ns: int


@dataclass(slots=True, eq=False)
class _Camera:
    """`runs`: the oldest first. `held`: in the order in which they are to leave.

    While frames are held: `latest`: the arrivals of late. `lowest`: those that none of a lower place came after; the
    last arrival below a place is the last of them that is below it. `messages`: of all cameras since it was quiet.
    `empty_reads`: those of this hold, the last at `empty_ns`.
    """

    current: _Run
    runs: list[_Run]
    held: list[_Held] = field(default_factory=list)
    latest: deque[_Arrival] = field(default_factory=lambda: deque(maxlen=NEWER_IN_A_ROW))
    lowest: list[_Arrival] = field(default_factory=list)
    messages: int = 0
    empty_ns: int = 0
    empty_reads: int = 0

    def run_of(self, stream: int | None, seq: int) -> _Run | None:
        """Return the run that a frame belongs to; None when it begins another.

        Without a stream: the one of the latest two that it skips the fewest numbers of.
        """
        mine = [run for run in self.runs if run.stream == stream]
        if stream is not None:
            return mine[0] if mine else None
        ahead = [run for run in mine[-2:] if seq >= run.next_seq]
        return min(ahead, key=lambda run: seq - run.next_seq, default=None)

    def begin_hold(self, now_ns: int) -> None:
        self.latest.clear()
        self.lowest = [_Arrival((-1, 0), now_ns)]
        self.messages, self.empty_reads, self.empty_ns = 0, 0, now_ns

    def note(self, arrival: _Arrival) -> None:
        """Note a frame that came while others are held."""
        self.latest.append(arrival)
        if arrival.place <= self.held[0].place:
            self.messages = 0
        if arrival.place < self.held[0].place:
            self.lowest.clear()
        while self.lowest and self.lowest[-1].place > arrival.place:
            self.lowest.pop()
        self.lowest.append(arrival)

    def is_awaited_by_held(self, run: _Run) -> bool:
        """Whether frames are held that frames of `run` may have to go before."""
        return not self.held[-1].run.begun or any(held.run is run for held in self.held)

    def is_quiet(self, now_ns: int) -> bool:
        """Whether no frame from before the first held one came of late."""
        last = self.lowest[bisect_left(self.lowest, (self.held[0].place,)) - 1]
        return now_ns - last.at_ns >= _QUIET_NS

    def is_passed_by(self) -> bool:
        """Whether the latest frames show that nothing waits that would go before the first held one."""
        return (
            len(self.latest) == NEWER_IN_A_ROW
            and min(self.latest).place >= self.held[0].place
            and self.is_quiet(self.latest[0].at_ns)
        )

    def end_of_first(self) -> int:
        """Return how many of the held frames follow one another without a gap."""
        end, first = 1, self.held[0]
        while end < len(self.held) and self.held[end].run is first.run:
            if self.held[end].seq > self.held[end - 1].seq + 1:
                break
            end += 1
        return end


class PushOrder:
    """Takes frames as they come, gives them back by `next_due` in the order of their cameras.

    At most `max_cameras` cameras, the ones heard last, and `max_streams` streams of each; the frames of others stay as
    they come. At most `max_bytes` of payloads are held, and `MOST_HELD` frames: beyond it the oldest hold ends.
    Times are on one clock that never goes back.
    """

    def __init__(self, *, max_cameras: int, max_streams: int, max_bytes: int) -> None:
        self._max_cameras = max_cameras
        # The current one, and one that begins.
        self._max_streams = max(max_streams, 2)
        self._max_bytes = max_bytes
        self._most_messages = MESSAGES_PER_CAMERA * max_cameras
        self._cameras: OrderedDict[str, _Camera] = OrderedDict()
        # Those with frames held, the oldest hold first.
        self._holding: dict[str, _Camera] = {}
        self._due: deque[PushedFrame] = deque()
        self._arrivals = 0
        self.held_frames = 0
        self.held_bytes = 0

    @property
    def holding(self) -> bool:
        return bool(self._holding)

    @property
    def due(self) -> bool:
        """Whether frames wait that may go on."""
        return bool(self._due)

    def next_due(self) -> PushedFrame | None:
        return self._due.popleft() if self._due else None

    def is_next(self, header: FrameHeader) -> bool:
        """Whether the frame goes straight on, which is noted; every other goes to `add`. No frame may be due."""
        camera = self._cameras.get(header.camera)
        if camera is None or camera.held:
            return False
        run = camera.current
        if run.next_seq != header.seq or run.stream != header.stream:
            return False
        run.next_seq += 1
        self._cameras.move_to_end(header.camera)
        return True

    def add(self, frame: PushedFrame, now_ns: int) -> None:
        """Let a frame become due, or hold it."""
        header = frame.header
        camera = self._cameras.get(header.camera)
        if camera is None:
            self._make_room()
            run = _Run(0, header.stream, header.seq + 1, begun=True)
            self._cameras[header.camera] = _Camera(run, [run])
            self._due.append(frame)
            return
        self._cameras.move_to_end(header.camera)
        known = camera.run_of(header.stream, header.seq)
        if known is not None and known.begun and header.seq <= known.next_seq:
            self._pass_on(camera, known, frame, now_ns)
        else:
            self._hold(camera, known or self._begin(camera, header), frame, now_ns)

    def note_message(self, now_ns: int) -> None:
        """Note that a message of any camera has come; asked for while frames are held."""
        for camera in list(self._holding.values()):
            if camera.is_quiet(now_ns):
                camera.messages += 1
                if camera.messages >= self._most_messages:
                    self._release_first(camera)

    def note_empty(self, now_ns: int) -> None:
        """Note that no message waited."""
        for camera in list(self._holding.values()):
            while camera.held and camera.is_quiet(now_ns):
                self._release_first(camera)
            if now_ns - camera.empty_ns >= _QUIET_NS:
                camera.empty_ns = now_ns
                camera.empty_reads += 1
            if camera.empty_reads >= MOST_EMPTY_READS:
                self._release(camera)

    def release_all(self) -> None:
        """Let everything that is held become due."""
        for camera in list(self._holding.values()):
            self._release(camera)

    def _pass_on(self, camera: _Camera, run: _Run, frame: PushedFrame, now_ns: int) -> None:
        """Let the awaited frame of `run`, or one that comes too late to be, go on, and what follows it."""
        self._due.append(frame)
        if frame.header.seq == run.next_seq:
            run.next_seq += 1
            camera.current = run
        if not camera.held:
            return
        if camera.is_awaited_by_held(run):
            camera.note(_Arrival((run.rank, frame.header.seq), now_ns))
        place = bisect_left(camera.held, ((run.rank, 0),))
        end = place
        while end < len(camera.held) and camera.held[end].run is run and camera.held[end].seq <= run.next_seq:
            run.next_seq = max(run.next_seq, camera.held[end].seq + 1)
            end += 1
        self._let_go(camera, place, end)

    def _hold(self, camera: _Camera, run: _Run, frame: PushedFrame, now_ns: int) -> None:
        self._arrivals += 1
        held = _Held((run.rank, frame.header.seq), self._arrivals, run, frame)
        if not camera.held:
            self._holding[frame.header.camera] = camera
            camera.begin_hold(now_ns)
        insort(camera.held, held)
        camera.note(_Arrival(held.place, now_ns))
        if not run.begun:
            run.next_seq = max(run.next_seq, held.seq + 1)
        self.held_frames += 1
        self.held_bytes += frame.payload.nbytes
        while camera.held and camera.is_passed_by():
            self._release_first(camera)
        while self.held_bytes > self._max_bytes or self.held_frames > MOST_HELD:
            self._release(next(iter(self._holding.values())))

    def _begin(self, camera: _Camera, header: FrameHeader) -> _Run:
        if len(camera.runs) >= self._max_streams:
            self._release(camera)
            camera.runs.remove(next(run for run in camera.runs if run is not camera.current))
        run = _Run(camera.runs[-1].rank + 1, header.stream, header.seq + 1, begun=False)
        camera.runs.append(run)
        return run

    def _make_room(self) -> None:
        while len(self._cameras) >= self._max_cameras:
            self._release(next(iter(self._cameras.values())))
            self._cameras.popitem(last=False)

    def _release(self, camera: _Camera) -> None:
        while camera.held:
            self._release_first(camera)

    def _release_first(self, camera: _Camera) -> None:
        """Let the first held frame go on, with what follows it: what would have to go before it doesn't come."""
        end = camera.end_of_first()
        run = camera.held[0].run
        run.next_seq, run.begun = camera.held[end - 1].seq + 1, True
        camera.current = run
        camera.messages = 0
        self._let_go(camera, 0, end)

    def _let_go(self, camera: _Camera, begin: int, end: int) -> None:
        leaving = camera.held[begin:end]
        del camera.held[begin:end]
        self._due.extend(held.frame for held in leaving)
        self.held_frames -= len(leaving)
        self.held_bytes -= sum(held.frame.payload.nbytes for held in leaving)
        if leaving and not camera.held:
            del self._holding[leaving[0].frame.header.camera]
