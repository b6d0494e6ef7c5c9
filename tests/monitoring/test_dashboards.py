"""The Grafana files are dashboards as Grafana's own types read them, and ask for metrics that there are; the
alerts fire when they should.
"""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from paris_p2p.monitoring.metric_table import METRICS
from tests.monitoring.dashboards import ALERTS, BOARDS, CONFIG, OURS, alerts, asked_for, board, queries

_PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(_PROMTOOL is None, reason="promtool of Debian's prometheus is not here")
EACH = pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)


def through_the_types(made: dict[str, Any]) -> Any:
    """Returns a dashboard as it comes out of Grafana's types: what they do not know is lost."""
    return json.loads(json.dumps(Dashboard.from_json(copy.deepcopy(made)), cls=JSONEncoder))


def lost(before: Any, after: Any, where: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        missing = [f"{where}/{key}" for key in before if key not in after]
        return missing + [
            word for key in before if key in after for word in lost(before[key], after[key], f"{where}/{key}")
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [word for number, (one, two) in pairs for word in lost(one, two, f"{where}[{number}]")]
    return [] if before == after else [where]


def test_there_is_one_for_a_run_and_one_for_an_operator() -> None:
    assert [path.stem for path in BOARDS] == ["operator", "run"]


@EACH
def test_grafanas_types_know_every_field(path: Path) -> None:
    made = board(path)
    assert lost(made, through_the_types(made)) == []
    made["panels"][1]["gridPos"]["width"] = 3  # a field that there is not
    made["shown"] = True
    assert sorted(lost(made, through_the_types(made))) == ["/panels[1]/gridPos/width", "/shown"]


@EACH
def test_panels_do_not_overlap_and_each_has_its_number_and_a_query(path: Path) -> None:
    panels, taken = board(path)["panels"], dict[tuple[int, int], str]()
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
        assert panel["type"] == "row" or all(target["expr"].strip() for target in panel["targets"])


def test_all_of_ours_that_they_ask_for_are_there() -> None:
    """p2pd's are held against a real p2pd in tests/bootstrap/test_operating.py."""
    asked = asked_for()
    assert {name for name in asked if name.startswith("paris_")} <= OURS
    assert len(asked & OURS) > 20
    assert "up" in asked


@EACH
def test_names_of_metrics_are_found_in_queries(path: Path) -> None:
    assert all(any(name in query for name in asked_for()) for _, query in queries(path))


@needs_promtool
@pytest.mark.parametrize("words", [("config", CONFIG), ("rules", ALERTS)], ids=["config", "rules"])
def test_prometheus_takes_the_configuration_and_the_rules(words: tuple[str, Path]) -> None:
    done = subprocess.run(
        ["promtool", "check", *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(alerts())} rules found" in done.stdout or words[0] == "config"


@needs_promtool
def test_each_alert_fires_when_it_should_and_not_before(tmp_path: Path) -> None:
    cases = Path(__file__).with_name("alerts.test.yml").read_text(encoding="utf-8")
    assert all(f"alertname: {name}" in cases for name in alerts())
    file = tmp_path / "cases.yml"
    file.write_text(cases.replace("RULES", str(ALERTS)))
    done = subprocess.run(
        ["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_lists_every_metric_with_its_labels_and_words() -> None:
    page = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text(encoding="utf-8")
    told = {"gauge": "`{}`", "counter": "`{}_total`", "summary": "`{0}_sum`, `{0}_count`"}
    for name, one in METRICS.items():
        row = f"| {told[one.kind].format(name)} | {', '.join(one.labels) or ' '} | {one.help} |"
        assert row in page
    assert page.count("\n| `paris_") == len(METRICS)
