"""The rules speak of metrics that exist, and say what they should."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.files import (
    DEPLOY,
    METRIC,
    RECORDED,
    RULE_FILES,
    alerts,
    exposed_label_values,
    exposed_names,
    exposition,
    recorded_names,
    rules,
)

TESTS = tuple(sorted((DEPLOY / "prometheus" / "tests").glob("*.test.yml")))
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: apt-get install prometheus)"
)


def promtool(*arguments: object, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *map(str, arguments)], input=text, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_uses_metrics_that_the_daemon_exposes(rule: dict[str, Any]) -> None:
    assert set(METRIC.findall(rule["expr"])) <= exposed_names()
    assert set(RECORDED.findall(rule["expr"])) <= recorded_names()


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_selects_label_values_that_the_daemon_exposes(rule: dict[str, Any]) -> None:
    known = exposed_label_values()
    for label, values in re.findall(r'(\w+)(?:=|!=|=~|!~)"([^"]*)"', rule["expr"]):
        if label != "job":
            assert set(values.split("|")) <= known[label]


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_has_a_severity_a_summary_and_says_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["alert"].startswith("Patchline")
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert "{{ $labels.instance }}" in alert["annotations"]["summary"]
    assert alert["annotations"]["description"].endswith(".")
    assert len(alert["annotations"]["runbook"].split()) >= 10


def test_every_symptom_of_a_line_in_trouble_has_an_alert() -> None:
    symptoms = {
        "PatchlineDown",
        "PatchlineNotReady",
        "PatchlineReloadFailed",
        "PatchlinePartsNotInspected",
        "PatchlineLatencyOverBudget",
        "PatchlineCameraQuiet",
        "PatchlineCameraNotBack",
        "PatchlineJournalLagging",
        "PatchlineJournalUnavailable",
        "PatchlineArchiveLagging",
        "PatchlineScoresDrifted",
        "PatchlineEngineStuck",
    }
    assert symptoms <= {alert["alert"] for alert in alerts()}


def test_every_alert_is_seen_firing_in_the_rule_tests() -> None:
    text = "".join(path.read_text() for path in TESTS)
    firing = set(re.findall(r'alertname="(\w+)", alertstate="firing"', text))
    for case in (case for path in TESTS for case in yaml.safe_load(path.read_text())["tests"]):
        firing |= {check["alertname"] for check in case.get("alert_rule_test", ()) if check["exp_alerts"]}
    assert firing == {alert["alert"] for alert in alerts()}


@needs_promtool
@pytest.mark.parametrize("path", RULE_FILES, ids=lambda path: path.name)
def test_promtool_accepts_the_rules(path: Path) -> None:
    result = promtool("check", "rules", path)
    assert result.returncode == 0, result.stdout + result.stderr


@needs_promtool
@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_alerts_fire_when_they_should_and_only_then(path: Path) -> None:
    result = promtool("test", "rules", path)
    assert result.returncode == 0, result.stdout + result.stderr


@needs_promtool
def test_promtool_accepts_what_the_daemon_exposes() -> None:
    result = promtool("check", "metrics", text=exposition())
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


@needs_promtool
def test_promtool_accepts_the_scrape_configuration(tmp_path: Path) -> None:
    for path in (DEPLOY / "prometheus").glob("*.yml"):
        shutil.copy(path, tmp_path)
    result = promtool("check", "config", tmp_path / "prometheus.yml")
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_scrape_snippet_and_the_whole_configuration_agree() -> None:
    (snippet,) = yaml.safe_load((DEPLOY / "prometheus" / "scrape.yml").read_text())
    whole = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert whole["scrape_configs"] == [snippet]
    assert whole["rule_files"] == sorted((path.name for path in RULE_FILES), reverse=True)
