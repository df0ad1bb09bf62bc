import json
import os
import random
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.errors import JournalError
from daemon.journal import STREAMS_KEPT, Journal, JournalReader, VerdictFilter
from daemon.messages import Region, Stages, Verdict
from daemon.outcomes import Outcome, Reason
from daemon.retention import NS_PER_DAY, Retention
from tests.daemon.journal_writer import verdict

LARGEST = 2**64 - 1
KILLS = 12


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal(path) as journal:
        yield journal


def missing(seq: int, count: int = 1, **fields: object) -> Verdict:
    return verdict(seq, verdict=Outcome.NOT_INSPECTED, reason=Reason.MISSING, count=count, score=None, **fields)


def writer(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "tests.daemon.journal_writer", *(str(argument) for argument in arguments)]


def test_a_verdict_is_read_back_as_it_was_written(journal: Journal) -> None:
    full = verdict(
        3,
        stream=LARGEST,
        trigger=-5,
        part="bolt 4711 ü",
        detail="a detail",
        regions=(Region(x=1, y=2, width=3, height=4, area=5.5, peak=6.5, centroid=(7.5, 8.5)),),
        published_ns=9,
        stages=Stages(wait=1, decode=2, embed=3, search=4, score=5, publish=6),
    )
    (written,) = journal.append([full])
    assert written == replace(full, offset=0)
    assert journal.read(0, 10) == [written]
    assert journal.find("left", LARGEST, 3) == written


def open_and_use(path: Path) -> None:
    with Journal(path) as journal:
        journal.append([verdict(seq) for seq in range(2000, 2010)])
        journal.read(0, 5000)


def test_offsets_go_on_without_a_gap_after_a_restart(path: Path) -> None:
    for restart in range(3):
        with Journal(path) as journal:
            assert journal.next_offset == 4 * restart
            written = journal.append([verdict(4 * restart + i) for i in range(4)])
            assert [one.offset for one in written] == list(range(4 * restart, 4 * restart + 4))
    with Journal(path) as journal:
        assert [one.offset for one in journal.read(0, 100)] == list(range(12))


def test_reading_begins_at_an_offset_and_ends_at_a_limit(journal: Journal) -> None:
    journal.append([verdict(seq) for seq in range(10)])
    assert [one.seq for one in journal.read(3, 4)] == [3, 4, 5, 6]
    assert journal.read(10, 4) == []


def test_an_empty_batch_changes_nothing(journal: Journal) -> None:
    assert journal.append([]) == []
    assert (journal.first_offset, journal.next_offset) == (0, 0)


def test_a_part_that_has_its_verdict_gets_no_second_one_and_its_batch_leaves_nothing(journal: Journal) -> None:
    journal.append([verdict(0)])
    with pytest.raises(JournalError, match="already"):
        journal.append([verdict(1), verdict(0)])
    assert [one.offset for one in journal.append([verdict(1)])] == [1]
    assert [one.seq for one in journal.read(0, 10)] == [0, 1]


def test_the_whole_range_of_stream_and_seq_is_kept_in_order(journal: Journal) -> None:
    numbers = [0, 1, 2**63 - 1, 2**63, LARGEST - 1, LARGEST]
    journal.append([verdict(seq, stream=stream) for stream in numbers for seq in numbers])
    for stream in numbers:
        assert [journal.find("left", stream, seq) for seq in numbers].count(None) == 0
        found = journal.stream("left", stream)
        assert found is not None
        assert found.last_seq == LARGEST
    assert {state.stream for state in journal.streams()["left"]} == set(numbers)
    assert [one.seq for one in journal.query(VerdictFilter(cameras=("left",), stream=LARGEST))] == numbers


def test_a_part_within_a_gap_is_found_by_the_gaps_verdict(journal: Journal) -> None:
    journal.append([verdict(0), missing(1, LARGEST - 1), verdict(LARGEST)])
    gap = journal.find("left", 7, 2**60)
    assert gap is not None
    assert (gap.seq, gap.count) == (1, LARGEST - 1)
    assert journal.find("left", 7, LARGEST) == journal.read(2, 1)[0]
    assert [one.seq for one in journal.query(VerdictFilter(seq=12345))] == [1]


def test_a_gap_moves_its_stream_to_its_last_part(journal: Journal) -> None:
    journal.append([verdict(0), missing(1, 10)])
    state = journal.stream("left", 7)
    assert state is not None
    assert state.last_seq == 10
    assert journal.find("left", 7, 11) is None


def test_streams_are_in_the_order_of_their_last_verdict_whatever_the_clock_says(journal: Journal) -> None:
    journal.append([verdict(0, stream=1, received_ns=9_000), verdict(0, stream=2, received_ns=1_000)])
    journal.append([verdict(1, stream=1, received_ns=5), verdict(0, camera="right", stream=3)])
    streams = journal.streams()
    assert [state.stream for state in streams["left"]] == [2, 1]
    assert [(state.stream, state.last_seq) for state in streams["right"]] == [(3, 0)]
    assert journal.stream("right", 1) is None


def test_expired_verdicts_go_and_positions_and_streams_stay(path: Path) -> None:
    now_ns = 100 * NS_PER_DAY
    with Journal(path, Retention(max_age_days=10)) as journal:
        journal.append([verdict(seq, received_ns=(80 + seq) * NS_PER_DAY) for seq in range(15)])
        assert journal.prune(now_ns) == 10
        assert journal.prune(now_ns) == 0
        assert [one.seq for one in journal.read(0, 100)] == list(range(10, 15))
        assert (journal.first_offset, journal.next_offset) == (10, 15)
        assert journal.prune(now_ns + 50 * NS_PER_DAY) == 5
    with Journal(path) as journal:
        assert (journal.first_offset, journal.next_offset) == (15, 15)
        state = journal.stream("left", 7)
        assert state is not None
        assert state.last_seq == 14
        assert journal.append([verdict(15)])[0].offset == 15


def test_only_the_oldest_verdicts_are_taken_away(path: Path) -> None:
    """A clock that was wrong for a while makes neither a hole nor a verdict that keeps all behind it for ever."""
    day = NS_PER_DAY
    received = [80 * day, 10_000 * day, 81 * day, 99 * day, 1 * day, 10_000 * day, 99 * day]
    with Journal(path, Retention(max_age_days=10)) as journal:
        journal.append([verdict(seq, received_ns=time_ns) for seq, time_ns in enumerate(received)])
        assert journal.prune(100 * day) == 3
        assert [one.seq for one in journal.read(0, 100)] == [3, 4, 5, 6]
        assert journal.prune(112 * day) == 4


def test_a_journal_that_is_too_large_shrinks_a_little_at_a_time(path: Path) -> None:
    with Journal(path, Retention(max_bytes=2**20)) as journal:
        for first in range(0, 10_000, 1000):
            journal.append([verdict(seq, part=f"part {seq}") for seq in range(first, first + 1000)])
        before = journal.size_bytes
        pruned = [journal.prune(0)]
        while pruned[-1]:
            pruned.append(journal.prune(0))
        assert max(pruned) <= 2000
        first = journal.first_offset
        assert 0 < first < 10_000
        assert [one.offset for one in journal.read(0, 20_000)] == list(range(first, 10_000))
        for _ in range(20):
            journal.prune(0)
    assert path.stat().st_size <= 2**20 < before


def test_room_that_was_pruned_is_used_again(path: Path) -> None:
    with Journal(path, Retention(max_bytes=2**20)) as journal:
        for first in range(0, 30_000, 500):
            journal.append([verdict(seq) for seq in range(first, first + 500)])
            journal.prune(0)
    assert path.stat().st_size < 1.5 * 2**20


def test_a_second_daemon_is_refused_and_readers_are_not(journal: Journal, path: Path) -> None:
    told = f"by another daemon .process {os.getpid()}.: stop that one, or give this one a journal.dir of its own.$"
    with pytest.raises(JournalError, match=told):
        Journal(path)
    with JournalReader(path) as reader:
        assert reader.next_offset == 0


def test_a_closed_journal_frees_its_lock_and_answers_no_more(path: Path) -> None:
    journal = Journal(path)
    journal.close()
    with pytest.raises(JournalError, match="closed"):
        journal.append([verdict(0)])
    Journal(path).close()


def test_a_journal_of_a_newer_version_is_left_alone(path: Path) -> None:
    Journal(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(JournalError, match=r"newer patchline .its format is 99"):
        Journal(path)
    with pytest.raises(JournalError, match="newer patchline"):
        JournalReader(path)


def test_another_programs_database_is_no_journal(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE other (x)")
    connection.close()
    told = f"^{re.escape(str(path))} is an SQLite file, but not a journal of patchline"
    with pytest.raises(JournalError, match=told):
        Journal(path)


@pytest.mark.parametrize("damage", ["header", "page", "cut off"])
def test_a_damaged_journal_is_reported_and_left_as_it_is(path: Path, damage: str) -> None:
    with Journal(path) as journal:
        journal.append([verdict(seq) for seq in range(2000)])
    data = bytearray(path.read_bytes())
    if damage == "header":
        data[:100] = bytes(100)
    elif damage == "page":
        data[8192:] = b"\xa5" * (len(data) - 8192)
    else:
        del data[4096 * 3 :]
    path.write_bytes(data)
    with pytest.raises(JournalError, match=r"damaged .*left as it is"):
        open_and_use(path)
    assert path.read_bytes()[4096:] == bytes(data)[4096:]


def test_a_journal_whose_next_offset_is_below_those_it_holds_is_damaged(path: Path) -> None:
    with Journal(path) as journal:
        journal.append([verdict(seq) for seq in range(3)])
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM verdicts WHERE offset < 2")
        connection.execute("UPDATE position SET next_offset = 1")
    connection.close()
    with pytest.raises(JournalError, match="is damaged: its next offset is below those it holds"):
        Journal(path)


def test_a_lock_that_a_dead_daemon_left_names_the_one_that_holds_it_now(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    Path(f"{path}.lock").write_text("999999999\n")
    with Journal(path), pytest.raises(JournalError, match=f"another daemon .process {os.getpid()}.: stop"):
        Journal(path)


def test_folders_that_are_missing_are_made(tmp_path: Path) -> None:
    with Journal(tmp_path / "line" / "state" / "journal.sqlite") as journal:
        assert journal.append([verdict(0)])


def test_a_folder_that_cant_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(JournalError, match="state can't be used: File exists"):
        Journal(tmp_path / "state" / "journal.sqlite")


def test_a_journal_that_is_moved_away_is_missed_and_used_again_when_it_is_back(journal: Journal, path: Path) -> None:
    journal.append([verdict(0)])
    away = path.with_suffix(".away")
    path.rename(away)
    with pytest.raises(JournalError, match="was moved, replaced or deleted"):
        journal.append([verdict(1)])
    with pytest.raises(JournalError, match="There is no journal"):
        journal.check()
    assert not path.exists()
    away.rename(path)
    journal.check()
    assert journal.append([verdict(1)])[0].offset == 1
    assert [one.seq for one in journal.read(0, 10)] == [0, 1]


def test_a_full_disk_is_an_error_and_the_journal_goes_on_when_there_is_room(path: Path) -> None:
    process = subprocess.run(writer("fill", path), capture_output=True, text=True, check=True)
    told = json.loads(process.stdout)
    assert all("can't be" in refusal and "full" in refusal for refusal in told["refusals"])
    assert told["accepted"] == told["seq"] == told["after"]
    with Journal(path) as journal:
        assert [one.offset for one in journal.read(0, 100_000)] == list(range(told["after"] + 1))


def test_another_programs_lock_is_an_error_and_the_journal_goes_on_without_it(journal: Journal, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalError, match="locked by another program"):
        journal.append([verdict(0)])
    other.close()
    assert journal.append([verdict(0)])[0].offset == 0


def test_nothing_that_was_committed_is_lost_to_kills(path: Path) -> None:
    draw = random.Random(5)
    for cycle in range(KILLS):
        process = subprocess.Popen(writer("write", path, cycle), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(draw.randint(1, 60)):
            process.stdout.readline()
        process.kill()
        told = process.stdout.read().splitlines()
        process.stdout.close()
        process.wait()
        with Journal(path) as journal:
            if told and told[-1]:
                assert journal.next_offset >= int(told[-1])
            kept = journal.read(0, 1_000_000)
            assert [one.offset for one in kept] == list(range(journal.first_offset, journal.next_offset))
            assert all(one.seq == one.offset for one in kept)
            state = journal.stream("left", 7)
            assert state is not None
            assert state.last_seq == journal.next_offset - 1
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()


def test_a_stream_that_was_forgotten_is_known_by_its_verdicts_as_long_as_one_is_kept(path: Path) -> None:
    with Journal(path) as journal:
        journal.append([verdict(0, stream=LARGEST), missing(1, 4, stream=LARGEST)])
        journal.append([verdict(0, stream=stream) for stream in range(STREAMS_KEPT)])
    with Journal(path, Retention(max_age_days=1)) as journal:
        assert LARGEST not in {state.stream for state in journal.streams()["left"]}
        state = journal.stream("left", LARGEST)
        assert state is not None
        assert (state.stream, state.last_seq) == (LARGEST, 4)
        assert journal.stream("left", STREAMS_KEPT) is None
        while journal.prune(100 * NS_PER_DAY):
            pass
        assert journal.stream("left", LARGEST) is None


def test_parts_that_have_their_verdict_keep_it_and_the_rest_of_their_batch_is_appended(journal: Journal) -> None:
    kept = journal.append([verdict(1), missing(3, 2)])
    given = [verdict(0), verdict(1, score=9.0), verdict(2), verdict(2, score=9.0), verdict(4)]
    told = journal.append_new(given)
    assert told == [
        (replace(given[0], offset=2), False),
        (kept[0], True),
        (replace(given[2], offset=3), False),
        (replace(given[2], offset=3), True),
        (kept[1], True),
    ]
    assert journal.read(0, 10) == [*kept, told[0][0], told[2][0]]


def test_an_offset_that_is_taken_is_damage_and_no_part_that_is_known(journal: Journal, path: Path) -> None:
    journal.append([verdict(0)])
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE position SET next_offset = 0")
    connection.close()
    with pytest.raises(JournalError, match="damaged"):
        journal.append_new([verdict(1)])
