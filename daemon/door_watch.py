"""The thread that watches the doors' connections, from the binding of the doors to their end."""

import threading
from collections.abc import Collection, Sequence

from daemon.descriptors import DescriptorGuard
from daemon.door_socket import DoorSocket
from daemon.memory_ceiling import MemoryCeiling
from daemon.telemetry import Telemetry
from daemon.unfinished import UnfinishedGuard


class DoorWatch:
    """Turns connections away when descriptors or memory run short, and cuts those that never end a message.

    On a thread of its own: loading banks and draining keep the main one busy while strangers reach the doors.
    `descriptors_needed`: by as many cameras and readers as configured. `ceiling`: bytes of memory.
    """

    def __init__(
        self, doors: Sequence[DoorSocket], telemetry: Telemetry, *, descriptors_needed: int, ceiling: int
    ) -> None:
        addresses = [door.address for door in doors]
        self._ceiling = MemoryCeiling(ceiling)
        self._descriptors = DescriptorGuard(addresses, telemetry, needed=descriptors_needed)
        self._unfinished = UnfinishedGuard(doors, telemetry, self._ceiling)
        self._stop_asked = threading.Event()
        self._thread = threading.Thread(target=self._run, name="door watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def set_ceiling(self, ceiling: int) -> None:
        """Hold memory below `ceiling` bytes from now on; thread-safe."""
        self._ceiling.bytes = ceiling

    def find_listeners(self, addresses: Collection[str]) -> None:
        """Look for the doors' listeners again: a door that was given another key has another. Thread-safe."""
        self._descriptors.find_listeners(addresses)

    def close(self) -> None:
        """End the thread, and leave the limits of descriptors as they were found."""
        self._stop_asked.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._descriptors.close()
        self._ceiling.close()

    def _run(self) -> None:
        while not self._stop_asked.wait(self._unfinished.interval_s):
            self._descriptors.look()
            self._unfinished.look()
            self._descriptors.turn_away(for_memory=self._ceiling.turns_away)
