"""The daemon's stages in this process, without sockets: frames come as ingest would hand them over."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Self

from prometheus_client import CollectorRegistry

from daemon.config import Settings
from daemon.intake import Acknowledgement, Answer, ReplyToken
from daemon.journal import Journal
from daemon.messages import FrameHeader, HeatmapHeader, Verdict
from daemon.pipeline import JUDGED_BYTES, Pipeline
from daemon.recipes import load_recipes
from daemon.retention import Retention
from daemon.streams import StreamLedger
from daemon.telemetry import Telemetry
from patchcore_engine.images import encode_png
from tests.daemon.conftest import good_part


class Listener:
    """Stands where ingest and the publisher are, and writes down what they would be told."""

    heatmaps_wanted = False

    def __init__(self) -> None:
        self.may_publish = threading.Event()
        self.may_publish.set()
        self.acknowledged: list[Acknowledgement] = []
        self.published: list[Verdict] = []
        self.calls: list[str] = []
        self._changed = threading.Condition()

    def acknowledge(self, answers: Sequence[Acknowledgement]) -> None:
        with self._changed:
            self.acknowledged += answers
            self._changed.notify_all()

    def reset_all(self, reason: str, retry_ms: int) -> None:
        self._note(f"reset {reason}")

    def resume(self) -> None:
        self._note("resume")

    def wake(self) -> None:
        self._note("wake")

    def publish(self, verdict: Verdict, heatmap: tuple[HeatmapHeader, bytes] | None = None) -> None:
        assert self.may_publish.wait(60)
        with self._changed:
            self.published.append(verdict)
            self._changed.notify_all()

    def update(self) -> None:
        """Nobody subscribes."""

    def wait_for(self, condition: Callable[["Listener"], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), 30), (self.published, self.calls)

    def _note(self, call: str) -> None:
        with self._changed:
            self.calls.append(call)
            self._changed.notify_all()


class Line:
    """A pipeline, what it told, and its journal."""

    def __init__(self, settings: Settings, judged_bytes: int = JUDGED_BYTES) -> None:
        self.settings = settings
        self.listener = Listener()
        self.telemetry = Telemetry(CollectorRegistry())
        self.journal = Journal(settings.journal_dir / "journal.sqlite", Retention(max_age_days=1))
        ledger = StreamLedger(
            max_cameras=settings.intake.max_cameras,
            max_streams=settings.intake.max_streams,
            draw=lambda: 1,
            lookup=self.journal.stream,
            recent=self.journal.recent_streams,
        )
        ledger.load(self.journal.kept_streams(time.time_ns()))
        self.pipeline = Pipeline(
            settings,
            telemetry=self.telemetry,
            ledger=ledger,
            lookup=self.journal,
            journal=self.journal,
            publisher=self.listener,
            judged_bytes=judged_bytes,
        )
        self.pipeline.attach(self.listener)
        self.pipeline.serve(load_recipes(settings))

    def receive(
        self, seq: int, *, camera: str = "cam1", stream: int = 7, acked: bool = True, **fields: object
    ) -> Answer:
        header = FrameHeader.model_validate(
            {"v": 1, "camera": camera, "stream": stream, "seq": seq, "captured_ns": 0, "encoding": "png", **fields}
        )
        reply = ReplyToken(b"sender", b"session", stream, seq) if acked else None
        return self.pipeline.intake.receive(header, memoryview(encode_png(good_part(seq))), reply)

    def published(self, count: int) -> list[Verdict]:
        self.listener.wait_for(lambda listener: len(listener.published) >= count)
        return self.listener.published

    def acknowledged(self, count: int) -> list[Acknowledgement]:
        self.listener.wait_for(lambda listener: len(listener.acknowledged) >= count)
        return self.listener.acknowledged

    def metric(self, name: str, **labels: str) -> float | None:
        """One sample of `patchline_NAME`; None where nothing has these labels."""
        return self.telemetry.registry.get_sample_value(f"patchline_{name}", labels)

    def close(self) -> None:
        self.pipeline.drain(0)
        self.journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_args: object) -> None:
        self.close()
