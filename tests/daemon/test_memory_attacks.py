"""Strangers make ZeroMQ keep what never ends: the daemon stays below its budget, and serves everybody else."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from daemon.config import MIB
from daemon.sender import FrameSender
from daemon.verdict_stream import VerdictStream
from tests.daemon.conftest import DaemonProcess, good_part, write_config
from tests.daemon.line import PATIENCE_S
from tests.daemon.memory_attack import MOST_SENT, SMALL_BUDGET, Attack
from tests.daemon.memory_gauge import Held, budget_of
from tests.daemon.serving import Start, frame, metric, page, until
from tests.daemon.zmtp import RawPeer, message, part

# What comes in between two looks, and what others allocate meanwhile.
MARGIN_BYTES = 150 * MIB


@contextmanager
def line_at_work(daemon: DaemonProcess) -> Iterator[None]:
    """A camera at each door, whose parts are judged one after the other for as long as the body lasts."""
    ended = threading.Event()
    failures: list[str] = []

    def work() -> None:
        with (
            RawPeer(daemon.addresses["push"]).greet("PUSH") as camera,
            FrameSender(daemon.addresses["acked"], "cam2") as sender,
            VerdictStream(daemon.addresses["verdicts"], daemon.addresses["replay"], from_offset=0) as stream,
        ):
            seq = 0
            while not ended.is_set() or seq < 2:
                if not camera.say(message(*frame("cam1", seq))):
                    failures.append(f"the camera's connection was cut before part {seq}")
                    return
                sender.send(good_part(seq))
                heard = [stream.next(PATIENCE_S) for _ in range(2)]
                if not all(verdict is not None and verdict.reason is None for verdict in heard):
                    failures.append(f"part {seq} wasn't judged: {heard}")
                    return
                seq += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert failures == []


@pytest.mark.parametrize(
    ("door", "kind", "connections"), [("push", "PUSH", 1), ("push", "PUSH", 50), ("acked", "DEALER", 8)]
)
def test_messages_without_end_never_bring_the_memory_above_its_ceiling(
    start_daemon: Start, door: str, kind: str, connections: int
) -> None:
    daemon = start_daemon(SMALL_BUDGET)
    held, ceiling = Held(daemon), sum(budget_of(daemon).values())
    with line_at_work(daemon):
        with Attack(daemon.addresses[door], kind, connections) as attack:
            pass
        assert held.peak < ceiling + MARGIN_BYTES
        until(held.is_back)
    assert attack.sent < MOST_SENT
    cut = daemon.wait_for("memory_ceiling_cut")
    assert (cut["doors"], cut["peers"]) == ([daemon.addresses[door]], ["127.0.0.1"])
    assert "without end" in cut["advice"]
    assert metric(daemon, "patchline_unfinished_messages_cut_total") == connections
    assert page(daemon, "/healthz")[0] == 200


def test_the_ceiling_holds_while_the_banks_are_being_loaded(tmp_path: Path, sleeping_banks: Path) -> None:
    text = SMALL_BUDGET.replace("[engine]\n", "[engine]\nsleep_ms = 6000\n")
    daemon = DaemonProcess(write_config(tmp_path / "daemon", sleeping_banks, text))
    try:
        daemon.wait_for("bound")
        held, ceiling = Held(daemon), sum(budget_of(daemon).values())
        with Attack(daemon.addresses["push"], "PUSH", 1):
            daemon.wait_for("memory_ceiling_cut")
        assert not [entry for entry in daemon.log if entry["event"] == "ready"]
        assert held.peak < ceiling + MARGIN_BYTES
    finally:
        daemon.end()


def test_subscriptions_without_end_are_cut_and_the_daemon_answers_meanwhile(start_daemon: Start) -> None:
    """ZeroMQ takes them in on the thread that publishes, and keeps 43 bytes for each of their bytes."""
    daemon = start_daemon(SMALL_BUDGET)
    held, ceiling = Held(daemon), sum(budget_of(daemon).values())
    sent = 0
    with ExitStack() as peers:
        hostile = [peers.enter_context(RawPeer(daemon.addresses["verdicts"]).greet("SUB")) for _ in range(8)]

        def flood(peer: RawPeer) -> None:
            nonlocal sent
            while sent < MOST_SENT and peer.say(
                b"".join(part(b"\1" + f"{sent + n:0600}"[::-1].encode()) for n in range(100))
            ):
                sent += 60_000

        threads = [threading.Thread(target=flood, args=(peer,)) for peer in hostile]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            assert page(daemon, "/healthz")[0] == 200
    assert daemon.wait_for("unfinished_message_cut")["door"] == daemon.addresses["verdicts"]
    with line_at_work(daemon):
        until(held.is_back)
    assert held.peak < ceiling + MARGIN_BYTES
