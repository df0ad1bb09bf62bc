"""Every metric is declared once, begins at 0, and has bounded labels."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import pairwise

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from daemon.errors import BindError
from daemon.health import HealthServer
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


@pytest.fixture
def health(telemetry: Telemetry) -> Iterator[tuple[HealthServer, dict[str, bool]]]:
    state = {"healthy": True, "ready": False}
    server = HealthServer(
        "127.0.0.1:0",
        telemetry.registry,
        healthy=lambda: (state["healthy"], "stuck"),
        ready=lambda: (state["ready"], "loading"),
    )
    server.start()
    yield server, state
    server.stop()


def fetch(server: HealthServer, path: str, method: str = "GET") -> tuple[int, str]:
    request = urllib.request.Request(f"http://{server.address}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  (our own server)
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_metrics_are_served(health: tuple[HealthServer, dict[str, bool]], telemetry: Telemetry) -> None:
    status, text = fetch(health[0], "/metrics")
    assert status == 200
    assert text == generate_latest(telemetry.registry).decode()


def test_health_and_readiness_are_apart(health: tuple[HealthServer, dict[str, bool]]) -> None:
    server, state = health
    assert fetch(server, "/healthz") == (200, "stuck\n")
    assert fetch(server, "/readyz") == (503, "loading\n")
    state.update(healthy=False, ready=True)
    assert fetch(server, "/healthz")[0] == 503
    assert fetch(server, "/readyz")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_only_get_is_served(health: tuple[HealthServer, dict[str, bool]], method: str) -> None:
    assert fetch(health[0], "/metrics", method)[0] == 405


def test_other_paths_are_not_found(health: tuple[HealthServer, dict[str, bool]]) -> None:
    assert fetch(health[0], "/")[0] == 404


def test_an_address_in_use_is_named(health: tuple[HealthServer, dict[str, bool]]) -> None:
    address = health[0].address
    with pytest.raises(BindError, match=f"telemetry.listen = {address} can't be bound: Address already in use"):
        HealthServer(address, CollectorRegistry(), healthy=lambda: (True, ""), ready=lambda: (True, ""))
