"""The dashboard shows metrics that exist, on whatever Prometheus its user chooses."""

import itertools
import re
from typing import Any

import pytest
import yaml

from tests.deploy.files import (
    DASHBOARDS,
    DEPLOY,
    METRIC,
    RECORDED,
    dashboard,
    exposed_label_values,
    exposed_names,
    expressions,
    panels,
    recorded_names,
)

pytestmark = pytest.mark.parametrize(
    "board", [dashboard(path) for path in DASHBOARDS], ids=[path.stem for path in DASHBOARDS]
)


def test_every_panel_uses_metrics_that_the_daemon_exposes(board: dict[str, Any]) -> None:
    used = {name for expression in expressions(board) for name in METRIC.findall(expression)}
    recorded = {name for expression in expressions(board) for name in RECORDED.findall(expression)}
    assert used <= exposed_names()
    assert recorded <= recorded_names()


def test_every_panel_selects_label_values_that_the_daemon_exposes(board: dict[str, Any]) -> None:
    known = exposed_label_values()
    for expression in expressions(board):
        for label, value in re.findall(r'(\w+)(?:=|!=)"([^"$]*)"', expression):
            assert value in known[label]


def test_every_panel_has_an_id_of_its_own_and_a_title(board: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in panels(board)]
    assert len(ids) == len(set(ids))
    assert all(panel["title"] for panel in panels(board))
    assert all(panel["description"] for panel in panels(board) if panel["type"] != "row")


def test_no_two_panels_lie_on_each_other(board: dict[str, Any]) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in panels(board):
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for cell in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        ):
            assert taken.setdefault(cell, panel["title"]) == panel["title"]


def test_no_data_source_is_hard_coded(board: dict[str, Any]) -> None:
    def sources(value: Any) -> list[Any]:
        if isinstance(value, list):
            return [source for item in value for source in sources(item)]
        if isinstance(value, dict):
            own = [value["datasource"]] if "datasource" in value else []
            return own + [source for item in value.values() for source in sources(item)]
        return []

    assert sources(board)
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources(board))
    assert "__inputs" not in board
    assert [v["name"] for v in board["templating"]["list"] if v["type"] == "datasource"] == ["datasource"]


def test_every_variable_that_a_panel_uses_is_declared(board: dict[str, Any]) -> None:
    declared = {variable["name"] for variable in board["templating"]["list"]} | {"__rate_interval"}
    used = {name for expression in expressions(board) for name in re.findall(r"\$\{?(\w+)", expression)}
    assert used <= declared


def test_the_line_is_seen_at_a_glance(board: dict[str, Any]) -> None:
    shown = " ".join(expressions(board))
    for metric in (
        "patchline_verdicts_total",
        "patchline_not_inspected_total",
        "patchline_end_to_end_seconds_bucket",
        "patchline:latency_budget_seconds",
        "patchline_stage_seconds_sum",
        "patchline_queue_frames",
        "patchline_engine_utilisation_ratio",
        "patchline_score_bucket",
        "patchline_bank_threshold",
        "patchline_journal_lag_verdicts",
        "patchline_archive_queue_parts",
        "patchline_last_verdict_timestamp_seconds",
    ):
        assert metric in shown


def test_the_provisioning_file_names_the_folder_that_install_fills(board: dict[str, Any]) -> None:
    (provider,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/patchline.yml").read_text())["providers"]
    assert provider["options"]["path"] == "/opt/patchline/share/grafana/dashboards"
    assert board["uid"] == "patchline-line"
