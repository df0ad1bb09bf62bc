"""The account that the long runs end with sees every way in which it may not balance."""

from dataclasses import replace

import pytest

from daemon.messages import Verdict
from daemon.outcomes import Outcome, Reason
from tests.e2e.account import Account, Part

SENT: set[Part] = {("cam1", 1, seq) for seq in range(4)}
TOLD = [
    Verdict(camera="cam1", stream=1, seq=seq, verdict=Outcome.PASS, captured_ns=0, received_ns=0, offset=10 + seq)
    for seq in range(4)
]
MISSING = replace(TOLD[2], seq=2, count=2, verdict=Outcome.NOT_INSPECTED, reason=Reason.MISSING)


def test_parts_judged_or_refused_by_name_balance() -> None:
    account = Account.of(SENT, iter([*TOLD[:2], MISSING]))
    assert account.balanced
    assert (account.judged, account.not_inspected) == (2, {"missing": 2})


@pytest.mark.parametrize(
    ("verdicts", "fault"),
    [
        (TOLD[:3], "lost"),
        ([*TOLD, replace(TOLD[3], seq=3, offset=14)], "judged_twice"),
        ([*TOLD, replace(TOLD[3], seq=4, offset=14)], "never_sent"),
        ([TOLD[0], replace(TOLD[2], offset=11), replace(TOLD[1], offset=12), TOLD[3]], "out_of_order"),
        ([*TOLD[:3], replace(TOLD[3], offset=14)], "offsets_skipped"),
    ],
)
def test_each_fault_shows(verdicts: list[Verdict], fault: str) -> None:
    account = Account.of(SENT, verdicts)
    assert getattr(account, fault) == 1
    assert not account.balanced
