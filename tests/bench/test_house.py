"""The table of the house counts what is there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench.house import ROWS, Source, Tree, length, main, parameters, sleeps

CODE = """
class Lead:
    def __init__(self):
        self.fixed, self.changing = 1, 2

    async def go(self, first, /, second, *more, third=3, **others):
        self.changing += 1
        self.changing, self.late = 3, 4
        other.field = 5
"""
TEST = """
import time
from asyncio import sleep

async def test_it():
    time.sleep(0.5)
    await sleep(2)
    await sleep(0)
    await sleep(computed)
"""


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    for name, text in (
        ("paris_p2p/peer/lead.py", CODE),
        ("paris_p2p/peer/__init__.py", ""),
        ("paris_p2p/errors.py", "# " + "x" * 120 + "\n"),
        ("paris_p2p/cli/run.py", "def create(): ...\n"),
        ("tests/test_lead.py", TEST),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    (tmp_path / "paris_p2p" / "unknown_to_git.py").write_text(CODE)
    return Tree(tmp_path)


def test_rooms_have_the_files_that_git_keeps_in_them(tree):
    assert tree.rooms == {"peer/": 1, "cli/": 1, "(no room)": 1}


def test_fields_change_where_a_method_but_the_constructor_assigns_them(tree):
    assert tree.changing_fields("Lead") == 2  # changing, late
    assert tree.changing_fields("Outbox") is None


def test_lengths_and_parameters_are_those_a_reader_sees(tree):
    [go] = [function for _, function in tree.functions if function.name == "go"]
    assert (length(go), parameters(go)) == (4, 5)


def test_sleeps_are_counted_with_their_constants():
    assert list(sleeps(Source(Path("test_lead.py"), TEST))) == [0.5, 2.0, 0.0]


def test_every_row_has_a_figure_for_both_trees(tree, capsys):
    main([str(tree.root), str(tree.root)])
    said = capsys.readouterr().out
    for name in ROWS:
        [row] = [line for line in said.splitlines() if line.startswith(f"| {name} ")]
        _, first, second = (cell.strip() for cell in row.strip("|").split("|"))
        assert first == second != ""
    assert "5, lead.go" in said
