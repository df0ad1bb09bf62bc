"""Under kill -9 and overload every part gets exactly one verdict, in order; `make chaos` runs this at length."""

import random
from pathlib import Path

import pytest

from tests.e2e.chaos import PERIOD_S, Victim, draw_faults, run_chaos, sleeping_settings
from tests.e2e.overload import run_overload
from tests.e2e.rig import Rig


@pytest.mark.parametrize(
    ("victim", "cycles", "keyed"), [("daemon", 3, False), ("subscriber", 3, False), ("both", 2, True)]
)
def test_every_part_is_judged_once_and_told_once_through_kills(
    tmp_path: Path, line_banks: Path, victim: Victim, cycles: int, keyed: bool
) -> None:
    rig = Rig(tmp_path, line_banks, settings=sleeping_settings(), period_s=PERIOD_S, keyed=keyed)
    account = run_chaos(rig, cycles=cycles, victim=victim, rng=random.Random(cycles))
    assert account.balanced, account
    assert account.judged == account.sent > 0
    assert rig.journal_checks == (0 if victim == "subscriber" else cycles)


def test_every_part_is_accounted_for_through_kills_of_a_daemon_whose_engine_fails(
    tmp_path: Path, line_banks: Path
) -> None:
    rng = random.Random(5)
    settings = sleeping_settings(faults=draw_faults(rng, 20))
    rig = Rig(tmp_path, line_banks, settings=settings, period_s=PERIOD_S)
    account = run_chaos(rig, cycles=2, victim="daemon", rng=rng)
    assert account.balanced, account
    assert set(account.not_inspected) <= {"engine_error"}
    assert account.judged > 0


def test_every_frame_of_an_overload_is_accounted_for(tmp_path: Path, line_banks: Path) -> None:
    account = run_overload(tmp_path, line_banks, seconds=4.0).account
    assert account.balanced, account
    assert set(account.not_inspected) <= {"shed", "late"}
    assert account.judged > 0 < account.not_inspected["shed"]
