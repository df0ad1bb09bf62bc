"""How long records are kept, and how much room they may take."""

from dataclasses import dataclass
from typing import Final

NS_PER_DAY: Final = 86_400 * 10**9


@dataclass(frozen=True, kw_only=True, slots=True)
class Retention:
    """What is kept: records younger than `max_age_days`, and of those the newest within `max_bytes`. None: no limit."""

    max_age_days: float | None = None
    max_bytes: int | None = None

    def cutoff_ns(self, now_ns: int) -> int | None:
        """Return the Unix time in nanoseconds before which records have expired; None if they never do."""
        if self.max_age_days is None:
            return None
        return now_ns - int(self.max_age_days * NS_PER_DAY)
