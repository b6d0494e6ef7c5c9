"""What is released is whole: the wheel holds every file it needs and works away from the clone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import paris_p2p

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _own(environment: dict[str, str]) -> dict[str, str]:
    """Leaves the clone out of what Python would import."""
    return {name: value for name, value in environment.items() if not name.startswith(("PYTHON", "PIP_"))}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds the wheel from a copy, so that the clone keeps no traces of it."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "copy"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "paris_p2p", "peers"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(copy)], check=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    subprocess.run([*command, "--wheel-dir", str(folder), str(copy)], check=True, env=_own(dict(os.environ)))
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as file:
        return set(file.namelist())


def test_the_wheel_is_named_by_the_version(wheel):
    assert wheel.name == f"paris_p2p-{paris_p2p.__version__}-py3-none-any.whl"


def test_every_file_of_the_package_is_in_the_wheel_and_nothing_else(names):
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "paris_p2p").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if name.startswith("paris_p2p/")} == package
    assert {"paris_p2p/py.typed", "paris_p2p/score/report.html.jinja"} <= package


def test_every_profile_is_in_the_wheel(names):
    data = f"paris_p2p-{paris_p2p.__version__}.data/data/share/paris-p2p/profiles"
    profiles = {f"{data}/{path.name}" for path in (ROOT / "peers" / "profiles").glob("*.toml")}
    assert profiles
    assert {name for name in names if "/share/" in name} == profiles


def test_an_installed_copy_works_away_from_the_clone(wheel, tmp_path):
    """Only the dependencies are borrowed from this environment."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*install, str(wheel)], check=True, env=_own(dict(os.environ)))
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    (Path(site) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    said = subprocess.run(
        [python, "-I", str(ROOT / "scripts" / "check_installed.py")],
        cwd=tmp_path,
        env=_own(dict(os.environ)),
        capture_output=True,
        text=True,
    )
    assert (said.returncode, said.stderr.strip()) == (0, "")


def test_changelog_citation_and_package_name_one_version():
    version = paris_p2p.__version__
    sections = re.findall(
        r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert version == next(name for name in sections if name != "Unreleased")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version
    assert citation["repository-code"] == PROJECT["urls"]["Repository"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


def test_the_oldest_and_the_newest_python_that_are_promised_are_tested_by_the_workflow():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    tested = workflow["jobs"]["check"]["strategy"]["matrix"]["python"]
    promised = sorted(
        (int(minor), f"3.{minor}")
        for name in PROJECT["classifiers"]
        for minor in re.findall(r"^Programming Language :: Python :: 3\.(\d+)$", name)
    )
    assert tested == [promised[0][1], promised[-1][1]]
    assert PROJECT["requires-python"] == f">={tested[0]}"
