"""What deploy/ holds, read the way its users' programs read it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry, generate_latest

from daemon.outcomes import Outcome, Reason
from daemon.telemetry import STAGES, Telemetry

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
UNITS = ("patchline.service", "patchline@.service")
RULE_FILES = tuple(sorted((DEPLOY / "prometheus").glob("patchline-*.yml")))
DASHBOARDS = tuple(sorted((DEPLOY / "grafana" / "dashboards").glob("*.json")))

METRIC = re.compile(r"(?<![A-Za-z0-9_:])patchline_[a-z0-9_]+")
RECORDED = re.compile(r"patchline:[a-z0-9_:]+")


def exposition() -> str:
    """Return what a daemon with two cameras and one recipe answers at /metrics, in the text format."""
    telemetry = Telemetry(CollectorRegistry())
    telemetry.build.info({"version": "1"})
    for camera in ("top", "side"):
        telemetry.add_camera(camera)
    telemetry.set_recipe("cap", "20260101T000000Z-0123abcd", 1.0, 2.0)
    telemetry.end_to_end_seconds.labels("cap").observe(0.05)
    return generate_latest(telemetry.registry).decode()


def exposed_names() -> set[str]:
    """Return the names of the series that Prometheus stores from `exposition`."""
    lines = (line for line in exposition().splitlines() if line and not line.startswith("#"))
    return {re.split(r"[{ ]", line, maxsplit=1)[0] for line in lines}


def exposed_label_values() -> dict[str, set[str]]:
    """Return the values that the labels with a closed set of them can take."""
    found = {"stage": set(STAGES), "verdict": {o.value for o in Outcome}, "reason": {r.value for r in Reason}}
    for name, value in re.findall(r'(outcome|kind|door|le)="([^"]*)"', exposition()):
        found.setdefault(name, set()).add(value)
    return found


def rules() -> list[dict[str, Any]]:
    """Return every recording and alert rule."""
    groups = [group for path in RULE_FILES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def recorded_names() -> set[str]:
    return {rule["record"] for rule in rules() if "record" in rule}


def dashboard(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every panel, those inside collapsed rows too."""
    for panel in board["panels"]:
        yield panel
        yield from panel.get("panels", ())


def expressions(board: dict[str, Any]) -> Iterator[str]:
    """Yield every PromQL expression of the panels, annotations and variables."""
    for panel in panels(board):
        for target in panel.get("targets", ()):
            yield target["expr"]
    for annotation in board["annotations"]["list"]:
        yield annotation["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["definition"]
