import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.errors import JournalError
from daemon.journal import Journal, JournalReader, VerdictFilter
from daemon.journal_reader import PAGE_ROWS
from daemon.messages import Verdict
from daemon.outcomes import Outcome, Reason
from tests.daemon.journal_writer import verdict

LARGEST = 2**64 - 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.sqlite"


def test_a_reader_needs_a_journal(path: Path) -> None:
    with pytest.raises(JournalError, match="There is no journal at"):
        JournalReader(path)
    assert not path.exists()


def read_as_nobody(path: Path) -> subprocess.CompletedProcess[str]:
    """Read the journal as a user who may write nowhere; root may write anywhere."""
    script = "import os, sys; from pathlib import Path; from daemon.journal import JournalReader; "
    script += "os.geteuid() or os.setuid(65534); print(JournalReader(Path(sys.argv[1])).next_offset)"
    # Where coverage is measured, this user can't write it down.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    command = [sys.executable, "-c", script, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_journal_at_rest_can_be_read_in_a_folder_that_the_reader_may_not_write_to() -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "journal.sqlite"
        with Journal(path) as journal:
            journal.append([verdict(seq) for seq in range(3)])
        path.chmod(0o444)
        path.parent.chmod(0o555)
        result = read_as_nobody(path)
        path.parent.chmod(0o000)
        refused = read_as_nobody(path)
        path.parent.chmod(0o700)
    assert (result.stdout, result.stderr) == ("3\n", "")
    assert "can't be read: Permission denied." in refused.stderr


def test_a_log_that_the_reader_cant_take_in_is_never_left_out() -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "state" / "journal.sqlite"
        left = Path(name) / "left"
        with Journal(path) as journal:
            journal.append([verdict(seq) for seq in range(3)])
            shutil.copytree(path.parent, left, ignore=shutil.ignore_patterns("*-shm"))
        Path(name).chmod(0o755)
        left.chmod(0o555)
        result = read_as_nobody(left / path.name)
        left.chmod(0o700)
    assert result.stdout == ""
    assert "can't be opened as needed" in result.stderr


def test_a_reader_of_what_a_crash_left_leaves_it_as_it_is(path: Path, tmp_path: Path) -> None:
    left = tmp_path / "left"
    with Journal(path) as journal:
        journal.append([verdict(seq) for seq in range(3)])
        # With its log, as after a crash: the last connection to close it would have taken the log in.
        shutil.copytree(path.parent, left)
    before = {file.name: file.read_bytes() for file in left.iterdir() if not file.name.endswith("-shm")}
    assert f"{path.name}-wal" in before
    with JournalReader(left / path.name) as reader:
        assert reader.next_offset == 3
    after = {file.name: file.read_bytes() for file in left.iterdir() if not file.name.endswith("-shm")}
    assert after == before


def test_a_reader_sees_whole_batches_while_they_are_written(path: Path) -> None:
    batches, size = 150, 7
    done = threading.Event()

    def write() -> None:
        for batch in range(batches):
            journal.append([verdict(batch * size + i) for i in range(size)])
        done.set()

    thread = threading.Thread(target=write)
    seen = 0
    with Journal(path) as journal, JournalReader(path) as reader:
        thread.start()
        while not done.is_set():
            following = reader.next_offset
            verdicts = reader.read(0, 100_000)
            assert following % size == 0
            assert len(verdicts) % size == 0
            assert len(verdicts) >= max(following, seen)
            assert [one.offset for one in verdicts] == list(range(len(verdicts)))
            assert len(list(reader.query(VerdictFilter()))) >= len(verdicts)
            seen = len(verdicts)
        thread.join()
        assert reader.next_offset == batches * size


def _population() -> list[Verdict]:
    draw = random.Random(11)
    heads: dict[tuple[str, int], int] = {}
    verdicts: list[Verdict] = []
    while len(verdicts) < 2 * PAGE_ROWS + 100:
        camera, stream = draw.choice("abc"), draw.choice([0, 5, LARGEST])
        seq = heads.get((camera, stream), 0)
        outcome = draw.choice(list(Outcome))
        reason = draw.choice(list(Reason)) if outcome is Outcome.NOT_INSPECTED else None
        count = draw.choice([1, 1, 20]) if reason is Reason.MISSING else 1
        heads[camera, stream] = seq + count
        verdicts.append(
            verdict(
                seq,
                camera=camera,
                stream=stream,
                verdict=outcome,
                reason=reason,
                count=count,
                part=draw.choice([None, "4711", "4712"]),
                recipe=draw.choice([None, "caps", "pins"]),
                received_ns=len(verdicts) + draw.choice([0, 0, 0, -50, 200]),
                offset=len(verdicts),
            )
        )
    return verdicts


POPULATION = _population()


@pytest.fixture(scope="module")
def populated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JournalReader]:
    path = tmp_path_factory.mktemp("populated") / "journal.sqlite"
    with Journal(path) as journal:
        journal.append(POPULATION)
        with JournalReader(path) as reader:
            yield reader


def some_of(values: list[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.one_of(st.just(()), st.lists(st.sampled_from(values), max_size=3, unique=True).map(tuple))


times = st.one_of(st.none(), st.integers(-100, len(POPULATION) + 300), st.sampled_from([-(2**70), 2**70]))
filters = st.builds(
    VerdictFilter,
    cameras=some_of(["a", "b", "c", "d"]),
    part=st.sampled_from([None, None, "4711", "none"]),
    stream=st.sampled_from([None, None, 0, 5, LARGEST]),
    seq=st.one_of(st.none(), st.none(), st.integers(0, 200), st.just(LARGEST)),
    since_ns=times,
    until_ns=times,
    verdicts=some_of([*Outcome]),
    reasons=some_of([*Reason]),
    recipes=some_of(["caps", "pins", "'; DROP TABLE verdicts"]),
)


def matches(one: Verdict, wanted: VerdictFilter) -> bool:
    return (
        (not wanted.cameras or one.camera in wanted.cameras)
        and (wanted.part is None or one.part == wanted.part)
        and (wanted.stream is None or one.stream == wanted.stream)
        and (wanted.seq is None or wanted.seq in range(one.seq, one.seq + one.count))
        and (wanted.since_ns is None or one.received_ns >= wanted.since_ns)
        and (wanted.until_ns is None or one.received_ns < wanted.until_ns)
        and (not wanted.verdicts or one.verdict in wanted.verdicts)
        and (not wanted.reasons or one.reason in wanted.reasons)
        and (not wanted.recipes or one.recipe in wanted.recipes)
    )


@given(wanted=filters, newest_first=st.booleans())
def test_a_query_finds_just_what_matches(populated: JournalReader, wanted: VerdictFilter, newest_first: bool) -> None:
    expected = [one for one in POPULATION if matches(one, wanted)]
    found = list(populated.query(wanted, newest_first=newest_first))
    assert (found[::-1] if newest_first else found) == expected


@given(camera=st.sampled_from("abcd"), stream=st.sampled_from([0, 5, 6, LARGEST]), seq=st.integers(0, 1000))
def test_find_knows_every_part_and_no_other(populated: JournalReader, camera: str, stream: int, seq: int) -> None:
    covering = (
        one
        for one in POPULATION
        if (one.camera, one.stream) == (camera, stream) and one.seq <= seq < one.seq + one.count
    )
    assert populated.find(camera, stream, seq) == next(covering, None)
