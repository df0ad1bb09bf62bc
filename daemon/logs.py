"""structlog's set-up: one JSON object per line, or text for a person where stderr is a terminal."""

import logging
import sys
from typing import Literal, TextIO

import structlog


def set_up_logging(level: Literal["debug", "info", "warning", "error"], stream: TextIO = sys.stderr) -> None:
    """Send the daemon's events to `stream`. Each event has a stable name, its key `event`."""
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
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
