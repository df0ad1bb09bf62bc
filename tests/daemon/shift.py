"""A shift at a daemon in trouble: parts at both doors, a controller that hears every verdict, and the account."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

import zmq

from daemon.config import load_settings
from daemon.live_doctor import examine_live
from daemon.messages import Verdict
from daemon.outcomes import Reason
from daemon.push_camera import PushCamera
from daemon.sender import FrameSender
from patchcore_engine.diagnosis import Finding
from tests.daemon.conftest import DaemonProcess, good_part
from tests.daemon.serving import metric, until
from tests.e2e.account import Account, Part

PATIENCE_S = 60.0
PUSHED, ACKED = "cam1", "cam2"


class Shift:
    """Parts pushed as cam1 and sent with acknowledgement as cam2; `heard` are the verdicts as they were published."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self._daemon = daemon
        self.heard: list[Verdict] = []
        self._changed = threading.Condition()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._thread = threading.Thread(target=self._listen)
        self.pushing = PushCamera(daemon.addresses["push"], PUSHED)
        self.sending = FrameSender(daemon.addresses["acked"], ACKED, buffer_frames=1000)
        self._pushed = 0

    def push(self, count: int) -> None:
        for number in range(count):
            self.pushing.send(good_part(number))
        self._pushed += count

    def send(self, count: int) -> None:
        for number in range(count):
            self.sending.send(good_part(number))

    def judge_one(self) -> Verdict:
        """Push one part and wait for its verdict."""
        self.push(1)
        return self.wait_for(lambda heard: [v for v in heard if v.camera == PUSHED and v.seq == self._pushed - 1])[0]

    @property
    def sent(self) -> set[Part]:
        pushed = {(PUSHED, self.pushing.stream, seq) for seq in range(self._pushed)}
        return pushed | {(ACKED, self.sending.stream, seq) for seq in range(self.sending.sent)}

    def wait_for(self, find: Callable[[list[Verdict]], list[Verdict]]) -> list[Verdict]:
        """Wait until `find` finds something among the verdicts heard."""
        with self._changed:
            found = self._changed.wait_for(lambda: find(self.heard), PATIENCE_S)
            assert found, self.heard[-3:]
            return found

    def account(self) -> Account:
        """Wait until every part has its verdict and is acknowledged; return what became of them, as it was heard."""
        assert self.sending.flush(PATIENCE_S), f"{self.sending.pending} parts were never acknowledged"
        self.wait_for(lambda heard: heard[-1:] if self._told() >= len(self.sent) else [])
        return Account.of(self.sent, self.heard)

    def reasons(self) -> set[Reason | None]:
        return {verdict.reason for verdict in self.heard}

    def _told(self) -> int:
        return sum(verdict.count for verdict in self.heard)

    def _listen(self) -> None:
        with suppress(zmq.ContextTerminated), self._context.socket(zmq.SUB) as socket:
            socket.linger = 0
            socket.connect(self._daemon.addresses["verdicts"])
            socket.subscribe(b"verdict/")
            while True:
                verdict = Verdict.unpack(socket.recv_multipart()[1])
                with self._changed:
                    self.heard.append(verdict)
                    self._changed.notify_all()

    def __enter__(self) -> Self:
        self._thread.start()
        # What is published before the subscription has arrived isn't heard.
        until(lambda: metric(self._daemon, "patchline_subscribers") >= 1)
        return self

    def __exit__(self, *_args: object) -> None:
        self.pushing.close(0)
        self.sending.close()
        self._context.term()
        self._thread.join(PATIENCE_S)


def troubles(daemon: DaemonProcess) -> dict[str, Finding]:
    """What `patchline doctor --live` finds wrong with the daemon now."""
    findings = examine_live(load_settings(daemon.config), watched_s=0)
    return {finding.check: finding for finding in findings if finding.status != "ok"}


def lines(daemon: DaemonProcess, event: str) -> list[dict[str, Any]]:
    """The log's lines of one event so far."""
    return [entry for entry in daemon.log if entry["event"] == event]
