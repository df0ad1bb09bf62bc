"""The bounded queue between the doors and the engine: fairness over cameras, batching, deadlines, shedding."""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from daemon.intake import ReplyToken
from daemon.messages import FrameHeader, Verdict
from daemon.outcomes import Outcome, Reason

if TYPE_CHECKING:
    from daemon.inspection import Judgement

# How far acked frames that were under way may overfill a blocking queue before they are refused.
OVERFILL: Final = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class QueuePolicy:
    """Limits of the queue, and what happens at them.

    `shed`: "oldest" gives the oldest frame of the camera that has most waiting its verdict at once; "block" lets the
    doors stop taking frames.
    """

    frames: int
    frames_per_camera: int
    bytes: int
    shed: Literal["oldest", "block"] = "oldest"
    max_delay_ms: int = 0


@dataclass(slots=True, eq=False, kw_only=True)
class Ticket:
    """One part that was taken in and owes its verdict. `count` parts from `seq` on when it stands for a gap.

    `header` and `payload` are None for parts that never came. Deadline and stages are on the monotonic clock; the
    stages are leaving the queue, entering the engine, and having a verdict. `forgotten`: its sender will send it
    again, so that it must get no verdict now. `unchecked`: the journal couldn't be asked for its stream, so that its
    verdict must not go there.
    """

    camera: str
    stream: int
    seq: int
    count: int = 1
    captured_ns: int
    received_ns: int
    received_monotonic_ns: int
    door: Literal["push", "acked"]
    header: FrameHeader | None = None
    payload: memoryview | None = None
    recipe: str | None = None
    deadline_ns: int | None = None
    reply: ReplyToken | None = None
    forgotten: bool = False
    unchecked: bool = False
    verdict: Verdict | None = None
    judgement: "Judgement | None" = None
    taken_monotonic_ns: int = 0
    engine_monotonic_ns: int = 0
    settled_monotonic_ns: int = 0

    @property
    def identity(self) -> tuple[str, int, int]:
        return self.camera, self.stream, self.seq

    @property
    def size(self) -> int:
        return self.payload.nbytes if self.payload is not None else 0

    @property
    def held_bytes(self) -> int:
        """What the frame and its judgement hold in memory."""
        return self.size + (self.judgement.nbytes if self.judgement is not None else 0)

    def is_late(self, now_ns: int, ahead_ns: int) -> bool:
        """Whether a verdict that takes `ahead_ns` more would come after the deadline.

        At most half of the part's time is granted to `ahead_ns`, so that one slow batch can't make every later part
        late unseen.
        """
        if self.deadline_ns is None:
            return False
        return now_ns + min(ahead_ns, (self.deadline_ns - self.received_monotonic_ns) // 2) >= self.deadline_ns

    def refused(self, reason: Reason, detail: str | None = None) -> Verdict:
        """Return the verdict that this part was not inspected."""
        header = self.header
        return Verdict(
            camera=self.camera,
            stream=self.stream,
            seq=self.seq,
            count=self.count,
            verdict=Outcome.NOT_INSPECTED,
            reason=reason,
            detail=detail,
            captured_ns=self.captured_ns,
            received_ns=self.received_ns,
            trigger=header.trigger if header is not None else None,
            part=header.part if header is not None else None,
            recipe=self.recipe,
        )


@dataclass(frozen=True, slots=True)
class Taken:
    """What left the queue: a batch that shares one key, and the frames found too old on the way."""

    batch: tuple[Ticket, ...]
    late: tuple[Ticket, ...]


class Lookahead:
    """How long the way to a verdict takes: the slowest of late, each newer observation letting go of a tenth."""

    RELEASE: Final = 0.1

    def __init__(self) -> None:
        self.ns = 0

    def observe(self, ns: int) -> None:
        self.ns = ns if ns > self.ns else self.ns + int((ns - self.ns) * self.RELEASE)


class Scheduler:
    """A queue of tickets per camera. Thread-safe; waits on a condition, never polls.

    `key` tells which frames may share a batch.
    """

    def __init__(self, policy: QueuePolicy, key: Callable[[Ticket], Hashable]) -> None:
        self.policy = policy
        self._key = key
        self._changed = threading.Condition()
        self._waiting: dict[str, deque[Ticket]] = {}
        self._rotation: deque[str] = deque()
        self._frames = 0
        self._bytes = 0
        self._closed = False

    def offer(self, ticket: Ticket) -> list[Ticket]:
        """Queue `ticket` and return the tickets shed for it."""
        with self._changed:
            if ticket.camera not in self._waiting:
                self._waiting[ticket.camera] = deque()
                self._rotation.append(ticket.camera)
            self._waiting[ticket.camera].append(ticket)
            self._frames += 1
            self._bytes += ticket.size
            shed = self._shed(ticket) if self.policy.shed == "oldest" else []
            self._changed.notify_all()
        return shed

    def take(self, max_frames: int, *, ahead_ns: int = 0) -> Taken | None:
        """Wait for frames and take up to `max_frames` that share a key, round robin over the cameras.

        `ahead_ns`: how long a verdict takes from here; see `Ticket.is_late`. Returns None once closed and empty.
        """
        with self._changed:
            while True:
                while not self._frames and not self._closed:
                    self._changed.wait()
                if not self._frames:
                    return None
                delay_s = self._hold_back_s(max_frames)
                if delay_s <= 0:
                    break
                self._changed.wait(delay_s)
            return self._pop_batch(max_frames, ahead_ns)

    def take_all(self) -> list[Ticket]:
        """Empty the queue at once, oldest first."""
        with self._changed:
            tickets = sorted((t for q in self._waiting.values() for t in q), key=lambda t: t.received_monotonic_ns)
            self._waiting.clear()
            self._rotation.clear()
            self._frames = self._bytes = 0
            self._changed.notify_all()
        return tickets

    def discard_forgotten(self) -> None:
        """Drop the tickets marked `forgotten`: their senders will send them again."""
        with self._changed:
            for camera in list(self._waiting):
                self._waiting[camera] = deque(t for t in self._waiting[camera] if not t.forgotten)
                if not self._waiting[camera]:
                    self._remove_camera(camera)
            self._frames = sum(len(queue) for queue in self._waiting.values())
            self._bytes = sum(ticket.size for queue in self._waiting.values() for ticket in queue)
            self._changed.notify_all()

    def close(self) -> None:
        """Let `take` hand out what waits without delay, and then None."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def frames(self) -> int:
        return self._frames

    @property
    def bytes(self) -> int:
        return self._bytes

    @property
    def full(self) -> bool:
        """Whether a blocking queue takes no more."""
        return self.policy.shed == "block" and self._reaches(1)

    @property
    def overfull(self) -> bool:
        """Whether a blocking queue must refuse even what was under way."""
        return self.policy.shed == "block" and self._reaches(OVERFILL)

    def oldest_received_ns(self) -> int | None:
        """When the longest-waiting frame was received, monotonic clock; None when none waits."""
        with self._changed:
            return min((q[0].received_monotonic_ns for q in self._waiting.values()), default=None)

    def _reaches(self, times: int) -> bool:
        return self._frames >= times * self.policy.frames or self._bytes >= times * self.policy.bytes

    def _hold_back_s(self, max_frames: int) -> float:
        if self._closed or self._frames >= max_frames or not self.policy.max_delay_ms:
            return 0
        oldest_ns = min(queue[0].received_monotonic_ns for queue in self._waiting.values())
        return self.policy.max_delay_ms / 1e3 - (time.monotonic_ns() - oldest_ns) / 1e9

    def _shed(self, newest: Ticket) -> list[Ticket]:
        shed = []
        if len(self._waiting[newest.camera]) > self.policy.frames_per_camera:
            shed.append(self._pop(newest.camera))
        while self._frames > self.policy.frames or self._bytes > self.policy.bytes:
            shed.append(self._pop(self._heaviest_camera(newest)))
        return shed

    def _heaviest_camera(self, newest: Ticket) -> str:
        by_bytes = self._bytes > self.policy.bytes

        def weight(camera: str) -> tuple[int, int]:
            queue = self._waiting[camera]
            return (sum(t.size for t in queue) if by_bytes else len(queue)), -queue[0].received_monotonic_ns

        return max((camera for camera, queue in self._waiting.items() if queue[0] is not newest), key=weight)

    def _pop_batch(self, max_frames: int, ahead_ns: int) -> Taken:
        now_ns = time.monotonic_ns()
        batch: list[Ticket] = []
        late: list[Ticket] = []
        other_keys: list[str] = []
        key: Hashable = None
        while self._rotation and len(batch) < max_frames:
            camera = self._rotation[0]
            ticket = self._waiting[camera][0]
            if ticket.is_late(now_ns, ahead_ns):
                late.append(self._pop(camera))
                continue
            if not batch:
                key = self._key(ticket)
            elif self._key(ticket) != key:
                other_keys.append(self._rotation.popleft())
                continue
            batch.append(self._pop(camera))
            if camera in self._waiting:
                self._rotation.rotate(-1)
        self._rotation.extendleft(reversed(other_keys))
        self._changed.notify_all()
        return Taken(tuple(batch), tuple(late))

    def _pop(self, camera: str) -> Ticket:
        ticket = self._waiting[camera].popleft()
        self._frames -= 1
        self._bytes -= ticket.size
        if not self._waiting[camera]:
            self._remove_camera(camera)
        return ticket

    def _remove_camera(self, camera: str) -> None:
        del self._waiting[camera]
        self._rotation.remove(camera)
