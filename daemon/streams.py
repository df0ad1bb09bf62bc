"""The rules of `seq`: what is a new part, a duplicate, a gap, a new stream. Pure: no clock, no sockets, no threads."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from daemon.messages import NO_CAMERA

# The upper half of the streams that are drawn here for cameras that send none, so that they are known again in the
# journal. A sender's own random stream falls among them once in 2**32.
IMPLICIT_PREFIX: Final = 0x494D504C << 32
# A camera that no recipe lists by its name has another's place only when that one was silent for so long: names made up
# one after the other shall not drive out those that work, nor make new metric labels by the second.
UNLISTED_SILENCE_S: Final = 600.0
# Two senders that use one camera's name alternate, so that the other's last frame is only a few frames back.
ALTERNATION: Final = 32


def is_implicit(stream: int) -> bool:
    """Whether `stream` was drawn by the daemon for a camera that sends none."""
    return stream >> 32 == IMPLICIT_PREFIX >> 32


class StreamState(Protocol):
    """What the journal knows of a stream."""

    @property
    def stream(self) -> int: ...
    @property
    def last_seq(self) -> int: ...
    @property
    def updated_ns(self) -> int: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where one frame belongs.

    `missing`: parts that were skipped right before `seq`, the first of them `seq - missing`. `started`: the stream is
    new. `conflict`: the camera went back to an earlier stream, so two senders use its name. `unchecked`: what is known
    of the stream couldn't be looked up.
    """

    stream: int
    duplicate: bool = False
    missing: int = 0
    started: bool = False
    conflict: bool = False
    unchecked: bool = False


@dataclass(slots=True)
class _Stream:
    last_seq: int
    last_arrival: int = -ALTERNATION


@dataclass(slots=True)
class _Camera:
    """`streams`: the current one last. `under_way`: verdicts owed by stream, of one that was rolled back too.

    `heard_ns`: of the last frame; of a camera of an earlier run long enough ago for anyone to have its place.
    """

    streams: OrderedDict[int, _Stream]
    heard_ns: int = -int(UNLISTED_SILENCE_S * 1e9)
    under_way: Counter[int] = field(default_factory=Counter)

    def settle(self, stream: int) -> None:
        self.under_way[stream] -= 1
        if not self.under_way[stream]:
            del self.under_way[stream]

    def forget_oldest(self, most: int, kept: int) -> None:
        """Forget the oldest streams beyond `most`, but neither the current one, nor `kept`, nor one that owes."""
        current = next(reversed(self.streams))
        for stream in list(self.streams):
            if len(self.streams) <= most:
                return
            if stream not in (current, kept) and stream not in self.under_way:
                del self.streams[stream]


class StreamLedger:
    """Every camera's streams and how far each has come.

    At most `max_cameras` cameras, and of each the `max_streams` most recent streams; an older one is asked of `lookup`
    (camera, stream) again, and those of a camera that is new here of `recent` (camera, at most so many; the newest
    last). `draw` returns a random number below 2**32 for the streams of cameras that send none.
    """

    def __init__(
        self,
        *,
        max_cameras: int,
        max_streams: int,
        draw: Callable[[], int],
        lookup: Callable[[str, int], StreamState | None] = lambda _camera, _stream: None,
        recent: Callable[[str, int], Iterable[StreamState]] = lambda _camera, _most: (),
    ) -> None:
        self._max_cameras = max_cameras
        self._max_streams = max_streams
        self._draw = draw
        self._lookup = lookup
        self._recent = recent
        self._cameras: dict[str, _Camera] = {}
        self._arrivals = 0

    def load(self, streams: Mapping[str, Iterable[StreamState]]) -> None:
        """Take up what the journal knows; of more than `max_cameras` cameras the most recent."""
        recent = sorted(streams, key=lambda camera: -max((s.updated_ns for s in streams[camera]), default=0))
        named = [camera for camera in recent if camera != NO_CAMERA]
        # The one silent for longest comes first, and so makes room first.
        for camera in reversed(named[: self._max_cameras]):
            newest = sorted(streams[camera], key=lambda state: state.updated_ns)[-self._max_streams :]
            self._cameras[camera] = _known(newest)

    @property
    def cameras(self) -> tuple[str, ...]:
        return tuple(self._cameras)

    def admit(self, camera: str, *, now_ns: int, listed: Callable[[str], bool]) -> bool:
        """Whether frames of `camera` are taken; it was heard at `now_ns`, on any clock that never goes back.

        A new camera has a free place, or that of another which is let go: of those that recipes don't name, `listed`,
        and that owe no verdict, the one silent for longest. Raises what `recent` raises, and then nobody has gone.
        """
        known = self._cameras.get(camera)
        if known is None:
            leaving = None
            if len(self._cameras) >= self._max_cameras:
                leaving = self._silent_for_longest(listed)
                least_ns = 0 if listed(camera) else int(UNLISTED_SILENCE_S * 1e9)
                if leaving is None or now_ns - self._cameras[leaving].heard_ns < least_ns:
                    return False
            known = _known(self._recent(camera, self._max_streams))
            if leaving is not None:
                del self._cameras[leaving]
            self._cameras[camera] = known
        known.heard_ns = now_ns
        return True

    def place(self, camera: str, stream: int | None, seq: int) -> Placement:
        """Decide where a frame of an admitted camera belongs, and note it.

        Without `stream` a frame belongs to the stream, the current one or one in use a few frames ago, that waits for
        just this part; else to the current one; and a `seq` that runs backwards starts a new stream.
        """
        self._arrivals += 1
        known = self._cameras[camera]
        streams = known.streams
        current = next(reversed(streams), None)
        drawn_here = stream is None
        if stream is None:
            stream = self._implicit_stream(streams, seq)
        state = streams.get(stream)
        if state is None and not drawn_here:
            state = self._recall(camera, stream)
        if state is None:
            streams[stream] = _Stream(seq, self._arrivals)
            known.under_way[stream] += 1
            known.forget_oldest(self._max_streams, stream)
            return Placement(stream=stream, started=True)
        if seq <= state.last_seq:
            return Placement(stream=stream, duplicate=True)
        missing = seq - state.last_seq - 1
        state.last_seq, state.last_arrival = seq, self._arrivals
        known.under_way[stream] += 1
        streams.move_to_end(stream)
        return Placement(stream=stream, missing=missing, conflict=current is not None and current != stream)

    def add_under_way(self, camera: str, stream: int, count: int) -> None:
        """Note `count` more verdicts that the stream owes than those of frames that were placed."""
        if count:
            self._cameras[camera].under_way[stream] += count

    def settled(self, camera: str, stream: int) -> None:
        """Note that a verdict of the stream has left."""
        self._cameras[camera].settle(stream)

    def roll_back(self, camera: str, stream: int) -> None:
        """Forget a part under way, and its stream: the sender sends all again that the journal doesn't hold."""
        if camera in self._cameras:
            self._cameras[camera].streams.pop(stream, None)
            self._cameras[camera].settle(stream)

    def _silent_for_longest(self, listed: Callable[[str], bool]) -> str | None:
        idle = [name for name, known in self._cameras.items() if not known.under_way and not listed(name)]
        return min(idle, key=lambda name: self._cameras[name].heard_ns, default=None)

    def _implicit_stream(self, streams: OrderedDict[int, _Stream], seq: int) -> int:
        mine = [(stream, state) for stream, state in reversed(streams.items()) if is_implicit(stream)]
        for place, (stream, state) in enumerate(mine):
            in_use = place == 0 or state.last_arrival >= self._arrivals - ALTERNATION
            if in_use and seq == state.last_seq + 1:
                return stream
        if mine and seq > mine[0][1].last_seq:
            return mine[0][0]
        while (drawn := IMPLICIT_PREFIX | self._draw()) in streams:
            pass
        return drawn

    def _recall(self, camera: str, stream: int) -> _Stream | None:
        known = self._lookup(camera, stream)
        if known is None:
            return None
        state = _Stream(known.last_seq)
        streams = self._cameras[camera].streams
        streams[stream] = state
        # It joins as the oldest: only a new part of it makes it the camera's current stream.
        streams.move_to_end(stream, last=False)
        self._cameras[camera].forget_oldest(self._max_streams, stream)
        return state


def _known(streams: Iterable[StreamState]) -> _Camera:
    return _Camera(OrderedDict((state.stream, _Stream(state.last_seq)) for state in streams))
