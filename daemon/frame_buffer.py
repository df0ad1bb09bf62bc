"""What a sender keeps until the daemon has acknowledged it: bounded, in the order of `seq`."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from daemon.errors import BufferFullError, SenderClosedError

WhenFull = Literal["block", "raise", "drop_oldest"]


@dataclass(slots=True)
class BufferedFrame:
    """One frame with its packed header. `under_way`: sent in the sender's current session."""

    seq: int
    header: bytes
    payload: bytes
    under_way: bool = False
    sends: int = 0


class FrameBuffer:
    """At most `capacity` unacknowledged frames; `when_full` decides what becomes of one more. Thread-safe."""

    def __init__(self, capacity: int, when_full: WhenFull, first_seq: int) -> None:
        if capacity < 1:
            raise ValueError(f"buffer_frames = {capacity}: a sender keeps at least one frame")
        self._capacity = capacity
        self._when_full = when_full
        self._next_seq = first_seq
        self._frames: OrderedDict[int, BufferedFrame] = OrderedDict()
        self._changed = threading.Condition()
        self._closed_by: SenderClosedError | None = None
        # Sent in this session and not acknowledged. The daemon counts the dropped ones among them, too.
        self._under_way = 0
        self._dropped_under_way: set[int] = set()
        self.sent = self.acknowledged = self.dropped = self.resent = 0

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, pack_header: Callable[[int], bytes], payload: bytes) -> tuple[int, int | None]:
        """Keep a frame under the next seq; returns that, and the seq of the frame dropped for it if any.

        Raises BufferFullError when the buffer is full and its policy is to raise, SenderClosedError once closed.
        """
        with self._changed:
            dropped = self._make_room()
            seq = self._next_seq
            frame = BufferedFrame(seq, pack_header(seq), payload)
            self._next_seq += 1
            self._frames[seq] = frame
            self.sent += 1
        return seq, dropped

    def take(self, window: int) -> BufferedFrame | None:
        """Return the first frame that is not under way, now under way; None if none waits or `window` are."""
        with self._changed:
            kept_under_way = self._under_way - len(self._dropped_under_way)
            if self._under_way >= window or kept_under_way == len(self._frames):
                return None
            frame = next(frame for frame in self._frames.values() if not frame.under_way)
            frame.under_way = True
            frame.sends += 1
            self._under_way += 1
            self.resent += frame.sends > 1
            return frame

    def acknowledge(self, seq: int) -> bool:
        """Let a frame go; False when it was not, or no longer, kept."""
        with self._changed:
            frame = self._frames.pop(seq, None)
            if frame is None:
                if seq in self._dropped_under_way:
                    self._dropped_under_way.remove(seq)
                    self._under_way -= 1
                return False
            self._under_way -= frame.under_way
            self.acknowledged += 1
            self._changed.notify_all()
            return True

    def rewind(self) -> None:
        """Let every frame be sent again: the session that they were under way in has ended."""
        with self._changed:
            for frame in self._frames.values():
                frame.under_way = False
            self._dropped_under_way.clear()
            self._under_way = 0

    def wait_until_empty(self, timeout_s: float | None) -> bool:
        """Raises SenderClosedError when the sender fails meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: not self._frames or self._closed_by is not None, timeout_s)
            if self._frames and self._closed_by is not None:
                raise self._closed_by
            return not self._frames

    def close(self, error: SenderClosedError) -> None:
        """Let every waiting and later `add` raise `error`. The frames are kept for who counts them."""
        with self._changed:
            self._closed_by = self._closed_by or error
            self._changed.notify_all()

    def _make_room(self) -> int | None:
        """Wait, raise or drop until a frame fits; returns the seq of a dropped frame."""
        if self._when_full == "block":
            self._changed.wait_for(lambda: len(self._frames) < self._capacity or self._closed_by is not None)
        if self._closed_by is not None:
            raise self._closed_by
        if len(self._frames) < self._capacity:
            return None
        if self._when_full == "raise":
            raise BufferFullError(f"{self._capacity} frames wait for their acknowledgement. Is the daemon running?")
        # A frame under way is probably being judged already, so the oldest that still waits here goes first.
        oldest = next((frame for frame in self._frames.values() if not frame.under_way), None)
        oldest = oldest if oldest is not None else next(iter(self._frames.values()))
        del self._frames[oldest.seq]
        if oldest.under_way:
            self._dropped_under_way.add(oldest.seq)
        self.dropped += 1
        return oldest.seq
