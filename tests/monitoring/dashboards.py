"""The dashboards and alerts that come with the project, for tests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from paris_p2p.monitoring.metric_table import METRICS

FOLDER = Path(__file__).parents[2] / "bootstrap"
BOARDS = sorted((FOLDER / "grafana").glob("*.json"))
ALERTS = FOLDER / "prometheus" / "alerts.yml"
CONFIG = FOLDER / "prometheus" / "prometheus.yml"
_NAME = re.compile(r"\b(?:(?:paris|libp2p|p2pd|process|go)_\w+|up)\b(?=[\s{\[)]|$)")
_SUFFIXES = {"gauge": ("",), "counter": ("_total",), "summary": ("_sum", "_count")}
OURS = {name + suffix for name, one in METRICS.items() for suffix in _SUFFIXES[one.kind]}


def board(path: Path) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return made


def queries(path: Path) -> Iterator[tuple[str, str]]:
    """Yields (panel, query) of a dashboard."""
    for panel in board(path)["panels"]:
        yield from ((panel["title"], target["expr"]) for target in panel.get("targets", ()))


def alerts() -> dict[str, str]:
    rules = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"][0]["rules"]
    return {rule["alert"]: rule["expr"] for rule in rules}


def asked_for() -> set[str]:
    """Returns the names of all metrics that a dashboard or an alert asks for."""
    every = [query for path in BOARDS for _, query in queries(path)] + [*alerts().values()]
    variables = [one["query"] for path in BOARDS for one in board(path)["templating"]["list"]]
    return {name for query in every for name in _NAME.findall(query)} | {
        query.partition("(")[2].partition(",")[0] for query in variables if query.startswith("label_values")
    }
