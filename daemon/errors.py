"""Every error the daemon raises on purpose.

DaemonError
├── ConfigError            config.toml: names the key's path, the value and the allowed range
├── MemoryBudgetError      a configuration that may take more memory than there is
├── MessageError           a message that breaks the wire format; carries the reason of its verdict
├── BindError              an address that can't be bound
├── KeyFileError           a file of keys that can't be used
├── JournalError           the journal can't be opened, read or written
│   └── PartKnownError     a verdict on a part that has one
├── ArchiveError           the archive can't be written
├── ReloadError            a reload that failed; the running banks go on serving
├── NotRunningError        no daemon answers at an address
├── OffsetsLostError       verdicts that a subscriber asked for are no longer in the journal
├── DemoError              a step of the demo failed
└── SenderError
    ├── BufferFullError    FrameSender's own buffer is full and its policy is to raise
    └── SenderClosedError
"""

from daemon.outcomes import Reason


class DaemonError(Exception):
    """Base of all errors raised by the daemon on purpose."""


class ConfigError(DaemonError):
    """Raised when config.toml has an unknown key, or a value of the wrong type or out of range."""


class MemoryBudgetError(DaemonError):
    """Raised when a configuration may take more memory than there is; names its largest shares and their keys."""


class MessageError(DaemonError):
    """Raised when a message breaks the wire format. `reason` is the reason of its `not_inspected` verdict."""

    def __init__(self, message: str, reason: Reason = Reason.MALFORMED) -> None:
        super().__init__(message)
        self.reason = reason


class BindError(DaemonError):
    """Raised when an address can't be bound."""


class KeyFileError(DaemonError):
    """Raised when a file of keys can't be read, holds no keys, or is readable by others."""


class JournalError(DaemonError):
    """Raised when the journal can't be opened, read or written."""


class PartKnownError(JournalError):
    """Raised when a verdict is appended on a part that has one in the journal, or in the same batch."""


class ArchiveError(DaemonError):
    """Raised when the archive can't be written."""


class ReloadError(DaemonError):
    """Raised when a reload fails; the running banks go on serving."""


class NotRunningError(DaemonError):
    """Raised when no daemon answers at an address."""


class OffsetsLostError(DaemonError):
    """Raised when verdicts can't be delivered any more, because the journal was pruned or emptied.

    The verdicts `first` .. `next` - 1 are lost to this subscriber; delivery goes on at `next`. `emptied`: the journal
    is another one than before, so its offsets begin anew.
    """

    def __init__(self, first: int, following: int, *, emptied: bool) -> None:
        if emptied:
            message = (
                f"Offset {first} is not in this journal: it was emptied. Delivery goes on at its offset {following}."
            )
        else:
            message = (
                f"Verdicts {first} to {following - 1} are no longer in the journal. Delivery goes on at {following}."
            )
        super().__init__(message)
        self.first = first
        self.next = following
        self.emptied = emptied


class DemoError(DaemonError):
    """Raised when a step of the demo fails."""


class SenderError(DaemonError):
    """Base of all errors about sending frames."""


class BufferFullError(SenderError):
    """Raised when FrameSender's own buffer is full and its policy is to raise."""


class SenderClosedError(SenderError):
    """Raised when a closed FrameSender is used."""
