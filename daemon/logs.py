"""structlog's set-up: one JSON object per line, or text for a person where stderr is a terminal."""

import logging
import os
import select
import sys
from collections.abc import Callable
from typing import Final, Literal, TextIO, cast

import structlog

LOG_LOST: Final = (
    "Make room where the daemon's stderr goes, or let its reader read on; behind a terminal or pipe that has ended it "
    "takes a restart."
)


# How long a reader that doesn't read may hold up whoever logs; after that it loses lines until it reads again.
PATIENCE_S: Final = 0.5


class UnfailingStream:
    """Writes to a stream's file and leaves out what it doesn't take: full disks, terminals and pipes closed or unread.

    Nothing is held back, so that nothing is left to fail later. Not thread-safe; structlog locks.
    """

    def __init__(self, stream: TextIO, on_loss: Callable[[], object]) -> None:
        """`on_loss` is called for each text that was left out, or cut off."""
        self._descriptor, self._encoding = stream.fileno(), stream.encoding
        self._on_loss = on_loss
        self._cut_off = False
        self._patience_ms = int(1000 * PATIENCE_S)
        # The descriptor itself may be shared with other programs, so that it can't be made one that never blocks.
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLOUT)

    def write(self, text: str) -> int:
        rest = memoryview(text.encode(self._encoding, "backslashreplace"))
        try:
            if self._cut_off:
                self._write(b"\n")
                self._cut_off = False
            while rest:
                written = self._write(rest[: select.PIPE_BUF])
                rest = rest[written:]
                self._cut_off = bool(rest)
        except OSError:
            self._on_loss()
        return len(text)

    def _write(self, part: bytes | memoryview) -> int:
        """Write up to PIPE_BUF bytes, for which a pipe that polls as writable has room; return how many."""
        if not self._poll.poll(self._patience_ms):
            self._patience_ms = 0
            raise BlockingIOError
        written = os.write(self._descriptor, part)
        self._patience_ms = int(1000 * PATIENCE_S)
        return written

    def flush(self) -> None:
        """Nothing waits to be written."""


def set_up_logging(
    level: Literal["debug", "info", "warning", "error"],
    stream: TextIO = sys.stderr,
    *,
    on_loss: Callable[[], object] = lambda: None,
) -> None:
    """Send the daemon's events to `stream`. Each event has a stable name, its key `event`.

    Where `stream` takes no line the daemon goes on; `on_loss` is called instead.
    """
    processors: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if stream.isatty():
        processors.append(structlog.dev.ConsoleRenderer())
    else:
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", UnfailingStream(stream, on_loss))),
        cache_logger_on_first_use=False,
    )
