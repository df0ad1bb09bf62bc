"""Banks that change under a running daemon: half replaced, repointed, taken away, slow. It serves a known one."""

import os
import shutil
import signal
import threading
from pathlib import Path

from daemon.outcomes import Outcome
from patchcore_engine.bank import MemoryBank
from patchcore_engine.bank_store import active_version, resolve
from patchcore_engine.errors import BankError
from tests.daemon.conftest import fit_sleeping_bank, write_config
from tests.daemon.disks import delayed
from tests.daemon.serving import Start, metric
from tests.daemon.shift import PUSHED, Shift, lines, troubles

INDEX = "index.faiss"


def own_banks(folder: Path, banks: Path) -> tuple[Path, str, str]:
    """Copy the banks, give `caps` a second version that isn't active; returns the folder and both versions."""
    own = folder / "own"
    shutil.copytree(banks, own, symlinks=True)
    first = active_version(own / "caps")
    second = fit_sleeping_bank(folder / "pictures", own, "caps", seed=7, activated=False)
    assert first is not None
    return own, first, second


def point_active_to(home: Path, version: str) -> None:
    link = home / ".active-new"
    link.symlink_to(version)
    link.replace(home / "active")


def test_a_bank_loaded_while_its_files_are_swapped_is_whole_or_refused(tmp_path: Path, sleeping_banks: Path) -> None:
    banks, first, second = own_banks(tmp_path, sleeping_banks)
    folder, other = banks / "caps" / first, banks / "caps" / second
    contents = [(folder / INDEX).read_bytes(), (other / INDEX).read_bytes()]
    over = threading.Event()

    def swap() -> None:
        turn = 0
        while not over.is_set():
            turn += 1
            new = tmp_path / "new"
            new.write_bytes(contents[turn % 2])
            new.replace(folder / INDEX)

    swapper = threading.Thread(target=swap)
    swapper.start()
    outcomes: list[str] = []
    try:
        while len(outcomes) < 100 or len(set(outcomes)) < 2:
            try:
                bank = MemoryBank.load(folder)
            except BankError:
                outcomes.append("refused")
            else:
                outcomes.append("whole")
                assert bank.index.serialize().tobytes() == contents[0]
    finally:
        over.set()
        swapper.join()


def test_a_bank_found_by_a_link_keeps_its_version_when_the_link_moves(tmp_path: Path, sleeping_banks: Path) -> None:
    banks, first, second = own_banks(tmp_path, sleeping_banks)
    found = resolve(banks / "caps" / "active")
    point_active_to(banks / "caps", second)
    assert MemoryBank.load(found).version == first


def test_whatever_becomes_of_the_banks_on_disk_a_known_one_serves(
    start_daemon: Start, tmp_path: Path, sleeping_banks: Path
) -> None:
    banks, first, second = own_banks(tmp_path, sleeping_banks)
    home = banks / "caps"
    daemon = start_daemon(config=write_config(tmp_path / "daemon", banks))
    with Shift(daemon) as shift:

        def reload(event: str) -> dict[str, object]:
            shift.push(5)
            shift.send(5)
            daemon.signal(signal.SIGHUP)
            told = daemon.wait_for(event)
            shift.account()
            return told

        sound = (home / second / INDEX).read_bytes()
        shutil.copy(home / first / INDEX, home / second / INDEX)
        point_active_to(home, second)
        assert "index.faiss doesn't match the digest" in str(reload("reload_failed")["error"])
        assert shift.judge_one().bank == first
        (home / second / INDEX).write_bytes(sound)
        assert f"{second} is the active version on disk" in troubles(daemon)["bank caps"].detail
        reload("reloaded")
        assert shift.judge_one().bank == second
        os.rename(home, tmp_path / "away")  # noqa: PTH104  (a folder taken away in one stroke)
        assert "advice" in reload("reload_failed")
        assert shift.judge_one().bank == second
        assert troubles(daemon)["bank caps"].status == "fail"
        os.rename(tmp_path / "away", home)  # noqa: PTH104
        reload("reloaded")
        account = shift.account()
    assert account.balanced
    assert account.judged == account.sent == 43
    assert {verdict.bank for verdict in shift.heard if verdict.camera == PUSHED} == {first, second}
    assert metric(daemon, 'patchline_reloads_total{outcome="failure"}') == 2
    assert metric(daemon, 'patchline_reloads_total{outcome="success"}') == 2


def test_a_bank_that_is_slow_to_read_keeps_no_part_waiting(
    start_daemon: Start, tmp_path: Path, sleeping_banks: Path
) -> None:
    banks, _first, second = own_banks(tmp_path, sleeping_banks)
    daemon = start_daemon(config=write_config(tmp_path / "daemon", banks))
    point_active_to(banks / "caps", second)
    with Shift(daemon) as shift, delayed(daemon, "read", 2.0, path=banks / "caps" / second / INDEX):
        daemon.signal(signal.SIGHUP)
        judged = 0
        while not lines(daemon, "reloaded"):
            assert shift.judge_one().verdict is not Outcome.NOT_INSPECTED
            judged += 1
        assert shift.judge_one().bank == second
        account = shift.account()
    assert account.balanced
    assert account.judged == judged + 1 > 1
