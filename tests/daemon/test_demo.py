from collections.abc import Iterable
from pathlib import Path

import pytest

from daemon.demo import prepare_output
from daemon.demo_report import DemoAccount
from daemon.errors import DemoError
from daemon.line_demo import LineAccount
from daemon.messages import Verdict
from daemon.outcomes import Outcome, Reason


def verdict(seq: int, camera: str = "left", *, part: str | None = None, score: float | None = 1.0) -> Verdict:
    return Verdict(
        camera=camera,
        stream=1,
        seq=seq,
        offset=seq,
        part=part,
        verdict=Outcome.PASS if score is not None else Outcome.NOT_INSPECTED,
        reason=None if score is not None else Reason.SHED,
        score=score,
        captured_ns=0,
        received_ns=0,
        published_ns=seq * 10**8,
    )


def line(verdicts: Iterable[Verdict], sent: int = 3) -> LineAccount:
    return LineAccount({"left": sent}, list(verdicts))


def test_a_line_balances_when_every_part_is_judged_or_refused_once_and_in_order() -> None:
    account = line([verdict(0), verdict(1, score=None), verdict(2)])

    assert account.balanced
    assert account.judged["left"] == 2
    assert account.not_inspected["left"] == 1


@pytest.mark.parametrize(
    "seqs",
    [(0, 1), (0, 1, 2, 2), (0, 2, 1), (0, 1, 2, 3)],
    ids=["one lost", "one judged twice", "out of order", "one never sent"],
)
def test_a_line_that_lost_repeated_or_swapped_a_part_does_not_balance(seqs: tuple[int, ...]) -> None:
    assert not line(verdict(seq) for seq in seqs).balanced


def demo(scores: dict[str, float | None]) -> DemoAccount:
    return DemoAccount(list(scores), [verdict(n, part=p, score=s) for n, (p, s) in enumerate(scores.items())], 0)


def test_a_demo_is_complete_when_the_defective_parts_score_higher() -> None:
    account = demo({"good/0.png": 1.0, "good/1.png": 2.0, "dent/2.png": 3.0})

    assert account.complete
    assert account.auroc == 1.0
    assert account.frames_per_second == pytest.approx(10)


def test_a_demo_is_not_complete_with_a_part_unjudged_judged_twice_or_indistinct() -> None:
    good = demo({"good/0.png": 1.0, "dent/1.png": 3.0})

    assert not DemoAccount([*good.parts, "good/2.png"], good.verdicts, 0).complete
    assert not DemoAccount(good.parts, [*good.verdicts, good.verdicts[0]], 0).complete
    assert not demo({"good/0.png": 3.0, "dent/1.png": 1.0}).complete
    assert not demo({"good/0.png": None, "dent/1.png": 1.0}).complete


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()

    with pytest.raises(DemoError, match="no demo made it"):
        prepare_output(tmp_path / "mine", "disc")

    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_a_demo_replaces_what_it_left_and_leaves_the_other_demos(tmp_path: Path) -> None:
    for name in ("disc", "line"):
        (prepare_output(tmp_path / "out", name) / "old.png").touch()

    made = prepare_output(tmp_path / "out", "disc")

    assert list(made.iterdir()) == []
    assert (tmp_path / "out" / "line" / "old.png").exists()
