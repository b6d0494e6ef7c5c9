"""What GitHub reads is valid, and what it calls or names is there."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".github"
FORMS = sorted(path for path in (FOLDER / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
WORKFLOWS = sorted((FOLDER / "workflows").glob("*.yml"))
INPUTS = {"markdown", "textarea", "input", "dropdown", "checkboxes"}


def _read(path: Path) -> dict[str, Any]:
    said = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(said, dict)
    return said


def _commands(path: Path) -> list[str]:
    """Returns the first word of each line that a workflow runs."""
    steps = [step for job in _read(path)["jobs"].values() for step in job["steps"] if "run" in step]
    return [line.split()[0] for step in steps for line in step["run"].splitlines() if line.strip()]


def test_there_are_the_forms_and_workflows_we_speak_of():
    assert [path.stem for path in FORMS] == ["bug", "feature", "question"]
    assert "ci" in [path.stem for path in WORKFLOWS]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_programs_of_this_repository_that_are_there(path):
    ours = [word for word in _commands(path) if "/" in word and not word.startswith(".venv/")]
    assert [word for word in ours if not os.access(ROOT / word, os.X_OK)] == []


def test_the_checks_are_those_of_anybodys_machine():
    assert _commands(FOLDER / "workflows" / "ci.yml") == [".ci/run"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_read_alone_and_pins_its_actions(path):
    said = _read(path)
    assert said["permissions"]["contents"] == "read"
    used = re.findall(r"uses: (\S+)", path.read_text(encoding="utf-8"))
    assert used
    assert [name for name in used if not re.fullmatch(r"[\w.-]+/[\w./-]+@(v\d+|[0-9a-f]{40})", name)] == []


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_is_one_that_github_shows(path):
    form = _read(path)
    assert {"name", "description", "body"} <= set(form)
    for item in form["body"]:
        assert item["type"] in INPUTS
        assert item["attributes"]["label"]
        assert item["type"] != "dropdown" or item["attributes"]["options"]
    ids = [item["id"] for item in form["body"]]
    assert len(set(ids)) == len(ids)
    assert any(item.get("validations", {}).get("required") for item in form["body"])


def test_a_bugs_form_asks_for_what_is_needed_to_repeat_it():
    text = (FOLDER / "ISSUE_TEMPLATE" / "bug.yml").read_text(encoding="utf-8")
    for asked in ("--version", "python3 --version", "uname", "torch", "driver", "command", "printed"):
        assert asked in text


def test_files_and_scripts_that_the_templates_name_are_there():
    named = {
        name
        for path in (*FOLDER.rglob("*.yml"), *FOLDER.rglob("*.md"))
        for name in re.findall(
            r"(?:docs/[\w-]+\.md|\b[A-Z]{4,}\.md|\.ci/\w+)", path.read_text(encoding="utf-8")
        )
    }
    assert {"CHANGELOG.md", "SECURITY.md", ".ci/run"} <= named
    assert [name for name in named if not (ROOT / name).is_file()] == []
