"""The stages together in one process: real bank, real journal, frames handed over as ingest would."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from numpy.typing import NDArray

from daemon.config import load_settings
from daemon.errors import MessageError
from daemon.intake import Answer, Moment, ReplyToken
from daemon.messages import FrameHeader
from daemon.outcomes import Outcome, Reason
from daemon.pipeline import JUDGED_BYTES
from daemon.recipes import RecipeSet, load_recipes
from daemon.retention import NS_PER_DAY
from patchcore_engine.images import PreparedImage, encode_png
from patchcore_engine.inspector import Inspector
from tests.daemon.conftest import good_part, write_config
from tests.daemon.serving import until
from tests.daemon.stages import Line


@pytest.fixture
def make_line(tmp_path: Path, sleeping_banks: Path) -> Iterator[Callable[..., Line]]:
    lines: list[Line] = []

    def make(text: str = "", judged_bytes: int = JUDGED_BYTES) -> Line:
        line = Line(load_settings(write_config(tmp_path / f"line{len(lines)}", sleeping_banks, text)), judged_bytes)
        lines.append(line)
        return line

    yield make
    for line in lines:
        line.close()


def test_a_part_is_journalled_before_it_is_published_and_acknowledged(make_line: Callable[..., Line]) -> None:
    line = make_line()
    line.pipeline.start()
    assert line.receive(0) is Answer.TAKEN
    line.listener.wait_for(lambda listener: bool(listener.acknowledged))
    ((reply, verdict, duplicate),) = line.listener.acknowledged
    assert (reply.seq, duplicate) == (0, False)
    assert line.listener.published == [verdict]
    assert line.journal.read(0, 10) == [verdict]


def test_a_frame_that_was_held_at_the_door_is_as_old_as_when_it_came(make_line: Callable[..., Line]) -> None:
    line = make_line("[recipes.caps]\nmax_age_ms = 1000\n")
    line.pipeline.start()
    came = Moment(time.time_ns() - 2 * 10**9, time.monotonic_ns() - 2 * 10**9)
    header = FrameHeader(v=1, camera="cam1", stream=7, seq=0, captured_ns=0, encoding="png")
    line.pipeline.intake.receive(header, memoryview(encode_png(good_part(0))), None, came)
    (verdict,) = line.published(1)
    assert (verdict.reason, verdict.received_ns) == (Reason.LATE, came.wall_ns)


def test_a_part_sent_again_while_it_waits_is_judged_once_and_answers_the_latest_session(
    make_line: Callable[..., Line],
) -> None:
    line = make_line()
    line.receive(0)
    header = FrameHeader(v=1, camera="cam1", stream=7, seq=0, captured_ns=0, encoding="png")
    again = ReplyToken(b"sender", b"new session", 7, 0)
    assert line.pipeline.intake.receive(header, memoryview(b""), again) is Answer.TAKEN
    line.pipeline.start()
    line.listener.wait_for(lambda listener: bool(listener.acknowledged))
    assert [reply for reply, _verdict, _duplicate in line.listener.acknowledged] == [again]
    assert len(line.listener.published) == 1


def test_a_part_sent_again_after_its_verdict_is_answered_from_the_journal(make_line: Callable[..., Line]) -> None:
    line = make_line()
    line.pipeline.start()
    line.receive(0)
    (first,) = line.published(1)
    line.listener.wait_for(lambda listener: len(listener.acknowledged) == 1)
    line.receive(0)
    line.listener.wait_for(lambda listener: len(listener.acknowledged) == 2)
    assert line.listener.acknowledged[1] == (ReplyToken(b"sender", b"session", 7, 0), first, True)
    assert len(line.listener.published) == 1
    assert line.telemetry.registry.get_sample_value("patchline_duplicate_frames_total", {"camera": "cam1"}) == 1


def test_a_part_sent_again_while_its_verdict_is_published_is_answered_after_those_before_it(
    make_line: Callable[..., Line],
) -> None:
    line = make_line()
    line.listener.may_publish.clear()
    line.receive(0)
    second = FrameHeader(v=1, camera="cam1", stream=7, seq=1, captured_ns=0, encoding="png")
    # It has its verdict already, waits for part 0, and so is committed together with it.
    line.pipeline.intake.reject(second, MessageError("Too long."), ReplyToken(b"sender", b"session", 7, 1))
    line.pipeline.start()
    until(lambda: line.journal.next_offset == 2)
    line.receive(1)
    line.listener.may_publish.set()
    line.listener.wait_for(lambda listener: any(reply.seq == 0 for reply, *_ in listener.acknowledged))
    assert [reply.seq for reply, *_ in line.listener.acknowledged] == [0, 1]


def test_a_part_that_comes_after_it_was_told_missing_is_answered_so(make_line: Callable[..., Line]) -> None:
    line = make_line()
    line.pipeline.start()
    line.receive(0)
    line.receive(5)
    line.listener.wait_for(lambda listener: len(listener.acknowledged) == 2)
    line.receive(3)
    line.listener.wait_for(lambda listener: len(listener.acknowledged) == 3)
    _reply, verdict, duplicate = line.listener.acknowledged[2]
    assert duplicate
    assert verdict is not None
    assert (verdict.seq, verdict.reason) == (3, Reason.MISSING)


def test_a_part_whose_verdict_is_no_longer_kept_is_still_a_duplicate(make_line: Callable[..., Line]) -> None:
    line = make_line()
    line.pipeline.start()
    line.receive(0)
    line.listener.wait_for(lambda listener: len(listener.acknowledged) == 1)
    assert line.journal.prune(time.time_ns() + 10 * NS_PER_DAY) == 1
    line.receive(0)
    line.listener.wait_for(lambda listener: len(listener.acknowledged) == 2)
    assert line.listener.acknowledged[1] == (ReplyToken(b"sender", b"session", 7, 0), None, True)


def test_verdicts_leave_in_the_order_of_parts_whatever_became_of_them(make_line: Callable[..., Line]) -> None:
    line = make_line("[engine]\nsleep_ms = 20\n")
    line.pipeline.start()
    line.receive(0)
    line.receive(1, recipe="unheard_of")
    line.receive(4)
    header = FrameHeader(v=1, camera="cam1", stream=7, seq=5, captured_ns=0, encoding="png")
    line.pipeline.intake.reject(header, MessageError("too many bytes", Reason.TOO_LARGE), None)
    verdicts = line.published(6)
    assert [verdict.seq for verdict in verdicts] == list(range(6))
    assert [verdict.reason for verdict in verdicts] == [
        None,
        Reason.UNKNOWN_RECIPE,
        Reason.MISSING,
        Reason.MISSING,
        None,
        Reason.TOO_LARGE,
    ]
    assert [verdict.offset for verdict in verdicts] == list(range(6))


def test_a_message_without_a_header_has_a_verdict_that_belongs_to_no_camera(make_line: Callable[..., Line]) -> None:
    line = make_line()
    line.pipeline.start()
    for _ in range(2):
        line.pipeline.intake.reject(None, MessageError("Not a msgpack map."), None)
    verdicts = line.published(2)
    assert {(verdict.camera, verdict.reason) for verdict in verdicts} == {("?", Reason.MALFORMED)}
    assert verdicts[0].identity != verdicts[1].identity


def test_a_full_blocking_queue_closes_the_doors_and_opens_them_again(make_line: Callable[..., Line]) -> None:
    line = make_line('[queue]\nframes = 2\nshed = "block"\n')
    intake = line.pipeline.intake
    assert intake.accepting
    assert intake.window == line.settings.intake.window
    line.receive(0)
    line.receive(1)
    assert not intake.accepting
    assert intake.window == 0
    line.receive(2)
    line.receive(3)
    assert line.receive(4) is Answer.REFUSED
    line.pipeline.start()
    line.listener.wait_for(lambda listener: "wake" in listener.calls)
    line.listener.wait_for(lambda listener: len(listener.acknowledged) == 4)
    assert intake.accepting
    assert line.receive(4) is Answer.TAKEN
    assert [verdict.seq for verdict in line.published(5)] == list(range(5))


def test_a_drained_pipeline_owes_nothing(make_line: Callable[..., Line]) -> None:
    line = make_line("[engine]\nsleep_ms = 200\nbatch_sizes = [1]\n")
    line.pipeline.start()
    for seq in range(5):
        line.receive(seq)
    cut_off = line.pipeline.drain(0)
    verdicts = line.published(5)
    assert [verdict.seq for verdict in verdicts] == list(range(5))
    assert [verdict.reason for verdict in verdicts].count(Reason.SHUTTING_DOWN) == cut_off > 0


def test_work_that_waits_for_an_engine_that_works_is_not_stuck(make_line: Callable[..., Line]) -> None:
    line = make_line("[service]\nstuck_s = 3600\n")
    assert not line.pipeline.stuck()
    line.receive(0)
    assert not line.pipeline.stuck()
    line.pipeline.start()
    line.published(1)


def test_the_engine_waits_when_the_way_out_is_slow_and_so_bounds_what_is_held(make_line: Callable[..., Line]) -> None:
    line = make_line("[engine]\nbatch_sizes = [1]\n", judged_bytes=1)
    line.listener.may_publish.clear()
    line.pipeline.start()
    for seq in range(100):
        line.receive(seq)

    def engine_waits() -> bool:
        """A job is done between two batches: at once, or not before the way out moves again."""
        return not wait([line.pipeline.run_on_engine(lambda: None)], timeout=0.5).done

    assert any(engine_waits() for _ in range(100))
    line.listener.may_publish.set()
    assert [verdict.seq for verdict in line.published(100)] == list(range(100))


def test_a_job_on_the_engine_thread_tells_what_it_raised(make_line: Callable[..., Line]) -> None:
    line = make_line()
    line.pipeline.start()

    def fail() -> None:
        raise RuntimeError("no such device")

    assert str(line.pipeline.run_on_engine(fail).result(30)) == "no such device"
    assert line.pipeline.run_on_engine(lambda: None).result(30) is None
    line.receive(0)
    assert line.published(1)[0].verdict is Outcome.PASS


class HeldInspector(Inspector):
    """Lets a frame wait in the middle of its decoding."""

    def __init__(self, inspector: Inspector) -> None:
        super().__init__(inspector.extractor, inspector.bank)
        self.decoding, self.go_on = Event(), Event()

    def prepare(self, image: NDArray[np.uint8]) -> PreparedImage:
        self.decoding.set()
        assert self.go_on.wait(60)
        return super().prepare(image)


def test_a_job_after_the_batch_waits_for_the_part_that_is_being_decoded(make_line: Callable[..., Line]) -> None:
    line = make_line()
    serving = line.pipeline.recipes
    caps = serving.recipes["caps"]
    held = HeldInspector(caps.inspector)
    line.pipeline.serve(RecipeSet({"caps": replace(caps, inspector=held)}, serving.settings))
    line.pipeline.start()
    line.receive(0)
    assert held.decoding.wait(30)

    def job() -> None:
        seen.append(line.metric("batch_frames_count"))

    seen: list[float | None] = []
    with ThreadPoolExecutor() as pool:
        done = pool.submit(lambda: line.pipeline.run_after_batch(job).result(30))
        # Without the wait it is done by now: the engine has nothing else to do.
        assert not wait([done], timeout=0.5).done
        held.go_on.set()
        assert done.result(30) is None
    assert seen == [1]


def test_a_recipe_taken_away_while_a_frame_waits_is_unknown(make_line: Callable[..., Line]) -> None:
    line = make_line()
    line.receive(0)
    settings = line.settings.model_copy(update={"recipes": {"pins": line.settings.recipes["pins"]}})
    line.pipeline.serve(load_recipes(settings))
    line.pipeline.start()
    assert line.published(1)[0].reason is Reason.UNKNOWN_RECIPE


def test_after_a_restart_the_ledger_goes_on_where_the_journal_ended(make_line: Callable[..., Line]) -> None:
    first = make_line()
    first.pipeline.start()
    first.receive(3)
    first.published(1)
    first.close()
    second = Line(first.settings)
    second.pipeline.start()
    second.receive(3)
    second.receive(5)
    verdicts = second.published(2)
    second.close()
    assert [(verdict.seq, verdict.reason, verdict.offset) for verdict in verdicts] == [
        (4, Reason.MISSING, 1),
        (5, None, 2),
    ]
    assert [duplicate for _reply, _verdict, duplicate in second.listener.acknowledged] == [True, False]
