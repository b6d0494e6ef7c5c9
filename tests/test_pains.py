"""The page of pains has twenty, and each names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "pains.md").read_text(encoding="utf-8")
ROWS = [line.split("|")[1:-1] for line in PAGE.splitlines() if re.match(r"\| [0-9]+ \|", line)]
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`")


def missing(text: str) -> list[str]:
    """Returns the named tests that are not there."""
    found = []
    for path, name in NAMED.findall(text):
        file = ROOT / path
        if not file.is_file() or (name and f"def {name}(" not in file.read_text(encoding="utf-8")):
            found.append(f"{path}::{name}")
    return found


def test_there_are_twenty_pains_each_with_an_answer_and_a_test() -> None:
    assert [int(row[0]) for row in ROWS] == list(range(1, 21))
    for number, pain, answer, shown in ROWS:
        assert pain.strip(), number
        assert len(answer) > 40, number
        assert NAMED.search(shown), f"pain {number} names no test"


def test_every_named_test_is_there() -> None:
    assert missing(PAGE) == []


def test_a_test_that_is_gone_is_noticed() -> None:
    assert missing("`tests/test_pains.py::test_gone` `tests/gone.py`") == [
        "tests/test_pains.py::test_gone",
        "tests/gone.py::",
    ]
