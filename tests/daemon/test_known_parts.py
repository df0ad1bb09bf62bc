"""A part that has its verdict keeps it, however long ago its stream was, and is taken for no trouble of the disk."""

from pathlib import Path

import pytest

from daemon.config import Settings, load_settings
from daemon.journal import STREAMS_KEPT, Journal
from tests.daemon.conftest import write_config
from tests.daemon.journal_writer import verdict
from tests.daemon.stages import Line


@pytest.fixture
def settings(tmp_path: Path, sleeping_banks: Path) -> Settings:
    return load_settings(write_config(tmp_path / "line", sleeping_banks))


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
