"""A part that has its verdict keeps it, however long ago its stream was, and is taken for no trouble of the disk."""

from pathlib import Path

import pytest

from daemon.config import Settings, load_settings
from daemon.journal import STREAMS_KEPT, Journal
from daemon.outcomes import Reason
from daemon.recipes import load_recipes
from tests.daemon.conftest import write_config
from tests.daemon.journal_writer import verdict
from tests.daemon.serving import until
from tests.daemon.stages import Line

TWO_CAMERAS = "[intake]\nmax_cameras = 2\n"


@pytest.fixture
def settings(tmp_path: Path, sleeping_banks: Path) -> Settings:
    """Recipes list cam1 and cam2; two cameras may be known at a time."""
    return load_settings(write_config(tmp_path / "line", sleeping_banks, TWO_CAMERAS))


def test_a_part_of_a_stream_before_the_last_thousand_is_a_duplicate_and_resets_nobody(settings: Settings) -> None:
    with Journal(settings.journal_dir / "journal.sqlite") as journal:
        journal.append([verdict(0, camera="cam1", stream=stream) for stream in range(STREAMS_KEPT + 1)])
        (first,) = journal.read(0, 1)
    with Line(settings) as line:
        line.pipeline.start()
        line.receive(0, camera="cam2")
        line.receive(0, stream=0)
        line.receive(1, camera="cam2")
        answers = line.acknowledged(3)
        assert [told for reply, told, duplicate in answers if duplicate] == [first]
        assert line.listener.calls == []
        assert [told.identity for told in line.published(2)] == [("cam2", 7, 0), ("cam2", 7, 1)]


def test_a_part_that_the_journal_holds_unbeknown_is_answered_so_and_the_rest_of_its_batch_is_journalled(
    settings: Settings,
) -> None:
    with Line(settings) as line:
        for seq in range(3):
            line.receive(seq)
            line.receive(seq, camera="cam2", acked=False)
        (held,) = line.journal.append([verdict(1, camera="cam1")])
        line.pipeline.start()
        assert [(reply.seq, duplicate) for reply, _told, duplicate in line.acknowledged(3)] == [
            (0, False),
            (1, True),
            (2, False),
        ]
        assert line.listener.acknowledged[1][1] == held
        assert {told.identity for told in line.published(5)} == {
            *(("cam1", 7, seq) for seq in (0, 2)),
            *(("cam2", 7, seq) for seq in range(3)),
        }
        assert all(told.reason is None for told in line.listener.published)
        assert line.listener.calls == []
        assert line.metric("duplicate_frames_total", camera="cam1") == 1
        assert line.metric("journal_failures_total") == 0
        assert line.journal.next_offset == 6


def test_names_that_no_recipe_lists_make_room_for_cameras_that_one_does(settings: Settings) -> None:
    with Line(settings) as line:
        line.pipeline.start()
        line.receive(0, camera="trial")
        line.receive(0, camera="typo")
        line.acknowledged(2)
        for count, camera in enumerate(("cam1", "cam2"), start=3):
            line.receive(0, camera=camera)
            line.acknowledged(count)
            assert line.published(count)[-1].reason is None
        line.receive(0, camera="another", acked=False)
        last = line.published(5)[-1]
        assert (last.camera, last.reason) == ("?", Reason.TOO_MANY_CAMERAS)
        labels = {
            sample.labels.get("camera") for family in line.telemetry.registry.collect() for sample in family.samples
        }
        assert labels - {None} == {"cam1", "cam2", "?"}


def test_a_part_of_a_camera_that_was_let_go_is_a_duplicate_with_its_place_and_without(settings: Settings) -> None:
    with Line(settings) as line:
        line.pipeline.start()
        for count, camera in enumerate(("trial", "typo", "cam1", "cam2"), start=1):
            line.receive(0, camera=camera)
            line.acknowledged(count)
        (first,) = line.journal.read(0, 1)
        line.receive(0, camera="trial")
        assert line.acknowledged(5)[-1][1:] == (first, True)
        caps = line.settings.recipes["caps"].model_copy(update={"cameras": ("trial",)})
        recipes = {"caps": caps, "pins": line.settings.recipes["pins"]}
        line.pipeline.serve(load_recipes(line.settings.model_copy(update={"recipes": recipes})))
        line.receive(0, camera="trial")
        assert line.acknowledged(6)[-1][1:] == (first, True)
        line.receive(2, camera="trial")
        assert [(told.seq, told.reason) for told in line.published(6)[4:]] == [(1, Reason.MISSING), (2, None)]
        assert line.metric("duplicate_frames_total", camera="trial") == 1
        assert line.metric("duplicate_frames_total", camera="?") == 1


def test_a_pushed_part_whose_stream_the_journal_cannot_tell_keeps_its_name_and_stays_out_of_the_journal(
    settings: Settings,
) -> None:
    with Line(settings) as line:
        line.receive(0, acked=False)
        away = line.journal.path.rename(line.journal.path.with_suffix(".away"))
        for _ in range(2):
            line.receive(0, stream=8, acked=False)
        line.receive(5, stream=8, acked=False)
        line.receive(0, camera="cam2", acked=False)
        away.rename(line.journal.path)
        line.pipeline.start()
        line.published(4)
        line.receive(6, stream=8, acked=False)
        told = line.published(5)
        assert [verdict.identity for verdict in told if verdict.camera == "cam1"] == [
            ("cam1", 7, 0),
            ("cam1", 8, 0),
            ("cam1", 8, 5),
            ("cam1", 8, 6),
        ]
        refused = [verdict for verdict in told if verdict.reason is Reason.JOURNAL_UNAVAILABLE]
        assert sorted((verdict.camera, verdict.offset is None) for verdict in refused) == [
            ("?", False),
            ("cam1", True),
            ("cam1", True),
        ]
        kept = [verdict.identity[1:] for verdict in line.journal.read(0, 10) if verdict.camera == "cam1"]
        assert kept == [(7, 0), (8, 6)]
        assert line.metric("duplicate_frames_total", camera="cam1") == 1
        until(lambda: line.metric("in_flight_frames") == 0)
