"""What a clone holds is of use: every picture is shown on a page."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"

pytestmark = pytest.mark.skipif(
    not (ROOT / ".git").exists(), reason="only a clone knows which files are its own"
)


def kept() -> list[Path]:
    """Returns the files that git keeps, and those it would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    paths = (ROOT / name for name in listed.stdout.decode().split("\0") if name)
    return [path for path in paths if path.is_file()]


def test_every_picture_is_shown_on_a_page():
    pages = [path for path in kept() if path.suffix == ".md"]
    shown = {
        name for page in pages for name in re.findall(r"pictures/([\w.-]+)", page.read_text(encoding="utf-8"))
    }
    assert {path.name for path in kept() if PICTURES in path.parents} - shown == set()
