from pathlib import Path

import numpy as np
import pytest

from patchcore_engine.errors import MemoryLimitError
from patchcore_engine.patch_store import MemoryLimit, MemoryNeed, PatchStore

LIMIT = MemoryLimit(most=1000, comfortable=500)


@pytest.mark.parametrize("spilled", [False, True])
def test_what_was_appended_is_read_and_gathered(tmp_path: Path, spilled: bool) -> None:
    vectors = np.random.default_rng(0).standard_normal((5000, 6), dtype=np.float32)
    with PatchStore(5000, 6, tmp_path if spilled else None) as store:
        for start in range(0, 5000, 700):
            store.append(vectors[start : start + 700])
        assert len(store) == 5000
        assert store.spilled is spilled
        np.testing.assert_array_equal(store.read(1020, 9), vectors[1020:1029])
        for positions in (np.array([4999, 0, 1023, 1024, 3000]), np.array([7]), np.arange(5000)[::-1]):
            np.testing.assert_array_equal(store.gather(positions), vectors[positions])
        assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MemoryLimitError, match=r"can they spill to .*file"):
        PatchStore(10, 6, tmp_path / "file")


def test_vectors_stay_in_memory_while_that_is_comfortable(tmp_path: Path) -> None:
    assert LIMIT.spill_folder(MemoryNeed(pictures=9, least=100, store=400), tmp_path) is None
    assert LIMIT.spill_folder(MemoryNeed(pictures=9, least=100, store=401), tmp_path) == tmp_path


def test_a_folder_to_be_made_is_judged_by_the_disk_it_will_lie_on(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert LIMIT.spill_folder(MemoryNeed(pictures=9, least=100, store=401), folder) == folder


def test_what_must_be_in_memory_is_held_against_the_limit(tmp_path: Path) -> None:
    with pytest.raises(MemoryLimitError, match=r"9 pictures need .* --memory-limit"):
        LIMIT.spill_folder(MemoryNeed(pictures=9, least=1001, store=0), tmp_path)


def test_a_disk_without_room_is_found_before_the_work_begins(tmp_path: Path) -> None:
    with pytest.raises(MemoryLimitError, match=r"GB are needed, .* GB are free\. Set TMPDIR"):
        LIMIT.spill_folder(MemoryNeed(pictures=9, least=0, store=10**18), tmp_path)


def test_memory_beyond_what_is_comfortable_serves_where_the_disk_has_no_room(tmp_path: Path) -> None:
    roomy = MemoryLimit(most=10**19, comfortable=500)
    assert roomy.spill_folder(MemoryNeed(pictures=9, least=0, store=10**18), tmp_path) is None
