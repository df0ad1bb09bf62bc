"""A soak in small: everything of `make soak` happens, and its report is right about growth."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests.e2e.soak_report import as_json, plot, show, slope_of
from tests.e2e.soak_shift import Pace, Soak

HOUR_S = 3600.0


def test_a_short_shift_accounts_for_every_part_and_reports_it(tmp_path: Path) -> None:
    pace = Pace(capacity=2.0, reload=2.0, camera=3.0, subscriber=2.0, cut=1.5)
    soak = Soak(tmp_path / "line", load=0.5, pace=pace)
    report = soak.run(10.0)
    assert report.account.balanced, report.account
    assert report.unaccounted == []
    assert report.flood.balanced, report.flood
    assert report.flood.not_inspected.keys() <= {"shed"}
    assert report.account.judged > 0
    for event in ("reloads done", "cables cut", "unreadable frames"):
        assert report.events[event] > 0, report.events
    assert {"undecodable", "bad_geometry", "unknown_recipe", "malformed"} <= set(report.account.not_inspected)
    with (tmp_path / "table").open("w") as file:
        show(report, Console(file=file, width=100))
    assert "judged" in (tmp_path / "table").read_text()
    assert json.loads(as_json(report))["account"]["lost"] == 0
    plot(report, soak.trace, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("per_hour", "grows"), [(0.0, False), (30.0, True), (-30.0, False)])
def test_growth_is_seen_through_the_noise_and_a_warm_up_is_not_growth(per_hour: float, grows: bool) -> None:
    seconds = np.arange(0, HOUR_S / 2)
    noise = np.random.default_rng(0).normal(0, 1, len(seconds))
    warm_up = 50 * np.minimum(seconds / 300, 1)
    slope = slope_of(list(seconds), list(warm_up + noise + per_hour * seconds / HOUR_S), 8.0)
    assert slope.grows is grows
    assert abs(slope.per_hour - per_hour) <= 2 * slope.uncertainty


def test_what_stays_the_same_has_no_slope_and_no_uncertainty() -> None:
    slope = slope_of(list(np.arange(100.0)), [13.0] * 100, 1.0)
    assert (slope.per_hour, slope.uncertainty) == (0.0, 0.0)
    assert not math.isnan(slope.first)
