"""What a clone holds is small and of use: nothing large, no picture that no page shows."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
MAX_BYTES = 300_000

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


def test_no_file_is_large_but_pictures():
    large = [
        f"{path.relative_to(ROOT)} has {path.stat().st_size:,} bytes, more than {MAX_BYTES:,}; "
        "make it an asset of a release, as `python -m bench.ddm_vs_monolith pack` does"
        for path in kept()
        if PICTURES not in path.parents and path.stat().st_size > MAX_BYTES
    ]
    assert large == []


def test_every_picture_is_shown_on_a_page():
    pages = [path for path in kept() if path.suffix == ".md"]
    shown = {
        name for page in pages for name in re.findall(r"pictures/([\w.-]+)", page.read_text(encoding="utf-8"))
    }
    assert {path.name for path in kept() if PICTURES in path.parents} - shown == set()
