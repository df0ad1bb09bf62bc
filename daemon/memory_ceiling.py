"""Holds the process's memory against its budget: says when strangers' share of it must be cut, and how hard.

Every share of the budget is bounded but what ZeroMQ keeps of messages that haven't ended, so what is above it all is
taken to be that. It may also be that the budget was estimated too low. Then cutting frees nothing: having tried every
way, memory that stays where it is, or is a little higher, is no reason to cut again.
"""

import time
from typing import Final

from daemon.own_memory import OwnMemory, give_back

# No peer makes ZeroMQ take more in a second: measured over loopback 0.8 GiB of empty parts, 1.5 GiB of large ones.
FASTEST_GROWTH: Final = 2 * 2**30
SHORTEST_LOOK_S: Final = 0.02
LONGEST_LOOK_S: Final = 0.5
# Cut again when memory is by this share of the ceiling higher than at the last cut.
STEP_SHARE: Final = 1 / 64
# Below this share of the ceiling all is well again.
WELL_SHARE: Final = 15 / 16
# ZeroMQ frees 2 GiB of empty parts in a second.
FREEING_S: Final = 5.0
# Whoever was cut is kept out for so long, and not for good: if the budget was too low, a camera must get in.
TURN_AWAY_S: Final = 10.0
# Subscriptions, and parts that a door passes over, are freed long after their connection was cut.
GIVE_BACK_FOR_S: Final = 60.0
GIVE_BACK_EVERY_S: Final = 1.0
# Of choosing what to cut, from the surest to all that may be it.
WAYS: Final = 3


class MemoryCeiling:
    """`bytes`: what the process may hold, to be set anew by any thread; all else belongs to one thread."""

    def __init__(self, ceiling: int) -> None:
        self.bytes = ceiling
        self.held = 0
        # How many cuts memory has risen through since it was well.
        self.cuts = 0
        self._at_cut = 0
        self._cut_at = self._turn_away_until = 0.0
        self._memory = OwnMemory()
        self._give_back_until = self._give_back_at = 0.0

    @property
    def reached(self) -> bool:
        """Whether memory was above the ceiling and isn't well below it yet."""
        return self.cuts > 0

    @property
    def turns_away(self) -> bool:
        """Whether new connections are to be turned away for now: somebody was just cut."""
        return self.reached and time.monotonic() < self._turn_away_until

    @property
    def interval_s(self) -> float:
        """How long to wait until the next look: no longer than what is left may last."""
        return min(max((self._cut_above - self.held) / FASTEST_GROWTH, SHORTEST_LOOK_S), LONGEST_LOOK_S)

    def look(self) -> bool:
        """Read the memory; return whether it is time to cut."""
        now = time.monotonic()
        if now >= self._give_back_at and (self.reached or now < self._give_back_until):
            self._give_back_at = now + GIVE_BACK_EVERY_S
            give_back()
        self.held = self._memory.held()
        if self.held < WELL_SHARE * self.bytes:
            self.cuts = 0
        stays = 0 < self.cuts < WAYS and now - self._cut_at > FREEING_S and self.held > self.bytes
        return stays or self.held > self._cut_above

    def note_cut(self, connections: int) -> None:
        """So many connections were cut because of `look`; 0: there was none to cut."""
        self.cuts += 1
        self._at_cut = self.held
        self._cut_at = time.monotonic()
        if connections:
            self._turn_away_until = self._cut_at + TURN_AWAY_S

    def await_freed(self) -> None:
        """A connection was cut: give back to the system what is freed in the next minute."""
        self._give_back_until = time.monotonic() + GIVE_BACK_FOR_S

    def close(self) -> None:
        self._memory.close()

    @property
    def _cut_above(self) -> float:
        return self._at_cut + STEP_SHARE * self.bytes if self.reached else self.bytes
