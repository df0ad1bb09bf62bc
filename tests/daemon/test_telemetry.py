"""Every metric is declared once, begins at 0, and has bounded labels."""

from itertools import pairwise

import pytest
from prometheus_client import CollectorRegistry

from daemon.messages import Stages, Verdict
from daemon.outcomes import Outcome, Reason
from daemon.telemetry import SECONDS_BUCKETS, STAGES, Telemetry, Utilisation, geometric


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry(CollectorRegistry())


def value(telemetry: Telemetry, name: str, **labels: str) -> float | None:
    return telemetry.registry.get_sample_value(f"patchline_{name}", labels)


def judged(**changes: object) -> Verdict:
    values: dict[str, object] = {
        "camera": "cam1",
        "stream": 1,
        "seq": 2,
        "verdict": Outcome.FAIL,
        "captured_ns": 0,
        "received_ns": 0,
        "recipe": "caps",
        "score": 3.0,
        "p_value": 0.04,
        "stages": Stages(wait=1000, embed=5000),
    }
    return Verdict(**{**values, **changes})  # type: ignore[arg-type]


def test_label_sets_begin_at_zero(telemetry: Telemetry) -> None:
    telemetry.add_camera("cam1")
    assert all(value(telemetry, "not_inspected_total", reason=reason.value) == 0 for reason in Reason)
    assert all(value(telemetry, "verdicts_total", camera="cam1", verdict=outcome.value) == 0 for outcome in Outcome)
    assert value(telemetry, "frames_received_total", camera="cam1", door="acked") == 0
    assert value(telemetry, "reloads_total", outcome="failure") == 0
    assert all(value(telemetry, "stage_seconds_count", stage=stage) == 0 for stage in STAGES)


def test_a_camera_that_goes_leaves_no_label(telemetry: Telemetry) -> None:
    telemetry.add_camera("cam1")
    telemetry.add_camera("cam2")
    telemetry.remove_camera("cam1")
    samples = [sample for family in telemetry.registry.collect() for sample in family.samples]
    assert {sample.labels["camera"] for sample in samples if "camera" in sample.labels} == {"cam2", "?"}
    telemetry.remove_camera("cam1")
    telemetry.add_camera("cam1")
    assert value(telemetry, "frames_received_total", camera="cam1", door="acked") == 0


def test_a_judged_part_is_counted_with_score_and_stages(telemetry: Telemetry) -> None:
    telemetry.count_verdict(judged(), "cam1")
    assert value(telemetry, "verdicts_total", camera="cam1", verdict="fail") == 1
    assert value(telemetry, "score_sum", recipe="caps") == 3.0
    assert value(telemetry, "p_value_bucket", recipe="caps", le="0.05") == 1
    assert value(telemetry, "stage_seconds_sum", stage="embed") == pytest.approx(0.005)
    assert (value(telemetry, "last_verdict_timestamp_seconds", camera="cam1") or 0) > 0


def test_a_part_not_inspected_is_counted_by_reason_and_without_score(telemetry: Telemetry) -> None:
    refused = judged(verdict=Outcome.NOT_INSPECTED, reason=Reason.LATE, score=None, p_value=None)
    telemetry.count_verdict(refused, "cam1")
    assert value(telemetry, "not_inspected_total", reason="late") == 1
    assert value(telemetry, "score_count", recipe="caps") is None


def test_a_new_bank_replaces_the_old_ones_info_and_keeps_the_counts(telemetry: Telemetry) -> None:
    telemetry.set_recipe("caps", "v1", 1.0, 2.0)
    telemetry.count_verdict(judged(), "cam1")
    telemetry.set_recipe("caps", "v2", 3.0, 4.0)
    assert value(telemetry, "bank_info", recipe="caps", bank="v1") is None
    assert value(telemetry, "bank_info", recipe="caps", bank="v2") == 1
    assert value(telemetry, "bank_threshold", recipe="caps", kind="fail") == 4.0
    assert value(telemetry, "score_count", recipe="caps") == 1


def test_buckets_are_geometric() -> None:
    assert geometric(1, 2, 4) == (1, 2, 4, 8)
    assert SECONDS_BUCKETS[0] == 0.0001
    assert all(high / low == pytest.approx(2, rel=0.01) for low, high in pairwise(SECONDS_BUCKETS))


def test_utilisation_is_the_busy_part_of_the_window() -> None:
    utilisation = Utilisation()
    begin = utilisation._started_ns
    assert utilisation.ratio() == 0
    utilisation.add(begin, begin + 10**18)
    assert utilisation.ratio() == 1.0
