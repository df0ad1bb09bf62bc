"""What attackers without keys can make the daemon hold: each attack on a daemon of its own, as a table.

`python -m tests.e2e.memory_attacks` takes a minute or two, and the memory of the budget, 1.9 GiB.
"""

import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from daemon.config import MIB
from tests.daemon.conftest import DaemonProcess, write_config
from tests.daemon.memory_attack import EMPTY_PARTS, SMALL_BUDGET, Attack
from tests.daemon.memory_gauge import Held, budget_of
from tests.daemon.serving import metric
from tests.daemon.zmtp import RawPeer, part
from tests.e2e.chaos import fit_sleeping_banks

MOST_SENT = 8192 * MIB
RECONNECTS_S = 6.0
ENDED_PARTS = 500_000
BACK_WITHIN_S = 120.0


def endless(door: str, kind: str, connections: int, parts: bytes = EMPTY_PARTS) -> Callable[[DaemonProcess], None]:
    """An attack of messages that never end."""

    def attack(daemon: DaemonProcess) -> None:
        with Attack(daemon.addresses[door], kind, connections, parts, MOST_SENT):
            pass

    return attack


def ended_and_again(daemon: DaemonProcess) -> None:
    """50 peers that end messages of far too many parts, and connect again, for RECONNECTS_S."""
    message = part(b"", more=True) * ENDED_PARTS + part(b"")
    until = time.monotonic() + RECONNECTS_S

    def send() -> None:
        while time.monotonic() < until:
            try:
                with RawPeer(daemon.addresses["push"]) as peer:
                    # One that is turned away hears nothing.
                    peer.socket.settimeout(1.0)
                    peer.greet("PUSH")
                    while time.monotonic() < until and peer.say(message):
                        pass
            except (OSError, AssertionError):
                continue

    threads = [threading.Thread(target=send) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def subscribers(count: int) -> Callable[[DaemonProcess], None]:
    """Readers that subscribe to one topic after the other."""
    topics = b"".join(part(b"\1" + struct.pack(">Q", number) + bytes(500)) for number in range(1000))
    return endless("verdicts", "SUB", count, topics)


ATTACKS: dict[str, Callable[[DaemonProcess], None]] = {
    "1 connection, parts of no bytes": endless("push", "PUSH", 1),
    "50 connections, parts of no bytes": endless("push", "PUSH", 50),
    "8 at the acked door, parts of no bytes": endless("acked", "DEALER", 8),
    "50 connections, parts of 1 MiB": endless("push", "PUSH", 50, part(bytes(MIB), more=True)),
    "20 connections, parts of 40 bytes alone": endless("push", "PUSH", 20, part(bytes(40), more=True)),
    "50 that end messages of 500,000 parts": ended_and_again,
    "30 readers that subscribe without end": subscribers(30),
}


def measure(name: str, attack: Callable[[DaemonProcess], None], config: Path) -> None:
    daemon = DaemonProcess(config)
    try:
        daemon.wait_for("ready")
        held, budget = Held(daemon), sum(budget_of(daemon).values())
        attack(daemon)
        ended = time.monotonic()
        while not held.is_back() and time.monotonic() < ended + BACK_WITHIN_S:
            time.sleep(0.2)
        cut = metric(daemon, "patchline_unfinished_messages_cut_total")
        print(
            f"{name:42} peak {held.peak / MIB:6,.0f} MiB of {budget / MIB:,.0f} ({(held.peak - budget) / MIB:+6,.0f}), "
            f"{cut:4.0f} cut, {held.now / MIB:4.0f} MiB {time.monotonic() - ended:5.1f} s after it",
            flush=True,
        )
    finally:
        daemon.end()


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        banks = fit_sleeping_banks(Path(folder))
        for number, (name, attack) in enumerate(ATTACKS.items()):
            measure(name, attack, write_config(Path(folder) / f"daemon{number}", banks, SMALL_BUDGET))
    return 0


if __name__ == "__main__":
    sys.exit(main())
