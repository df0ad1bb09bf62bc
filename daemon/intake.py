"""Where the doors and the pipeline meet: what ingest calls for each message, and what the pipeline calls back."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from daemon.errors import MessageError
from daemon.messages import FrameHeader, Verdict


class Answer(Enum):
    """What became of a frame that was handed over."""

    TAKEN = "taken"  # it has, or will have, its verdict; an acked frame is acknowledged later
    REFUSED = "refused"  # nothing was noted: end the sender's session with RESET, so that it sends the frame again


class Moment(NamedTuple):
    """When a frame was received: Unix time, and the monotonic clock."""

    wall_ns: int
    monotonic_ns: int


@dataclass(frozen=True, slots=True)
class ReplyToken:
    """Where an acknowledgement goes. `stream` and `seq` are those of the frame that it answers."""

    routing_id: bytes
    session: bytes
    stream: int
    seq: int


# The sender, the journalled verdict (None: a duplicate whose verdict is no longer kept), and whether it is a duplicate.
Acknowledgement = tuple[ReplyToken, Verdict | None, bool]


class Intake(Protocol):
    """What ingest calls, all of it on the ingest thread."""

    def receive(
        self, header: FrameHeader, payload: memoryview, reply: ReplyToken | None, received: Moment | None = None
    ) -> Answer:
        """Hand over a frame that passed `parse_header` and `check_payload`; `reply` is None for the push door.

        `received`: when that was, None for now.
        """
        ...

    def reject(
        self,
        header: FrameHeader | None,
        error: MessageError,
        reply: ReplyToken | None,
        received: Moment | None = None,
    ) -> Answer:
        """Hand over a frame that can't be inspected; `header` and `reply` are None when the header can't be read."""
        ...

    @property
    def accepting(self) -> bool:
        """Whether the push door may be read now. Ingest looks before each read, and again after `Doors.wake`."""
        ...

    @property
    def window(self) -> int:
        """Unacknowledged frames that each acked sender may have under way now; 0 = stop for now."""
        ...


class Doors(Protocol):
    """What the pipeline calls on ingest, from other threads. No call blocks."""

    def acknowledge(self, answers: Sequence[Acknowledgement]) -> None:
        """Send acknowledgements; those of ended sessions are dropped."""
        ...

    def reset_all(self, reason: str, retry_ms: int) -> None:
        """End every session with RESET and refuse new ones until `resume`.

        Holds at once: no frame of a session begun earlier is handed over after this call returned.
        """
        ...

    def resume(self) -> None:
        """Welcome new sessions again."""
        ...

    def wake(self) -> None:
        """`accepting` or `window` changed: look again, and tell waiting senders their new window."""
        ...
