"""Checks a copy that was installed from a wheel: run it by that environment's Python, away from the clone.

scripts/release runs it in an empty environment, tests/test_release.py in a borrowed one.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from importlib.metadata import distribution
from pathlib import Path


def main() -> None:
    checks = (check_place, check_data, check_commands)
    sys.exit("\n".join(complaint for check in checks for complaint in check()) or None)


def check_place() -> list[str]:
    """Returns a complaint where another copy than the installed one answers."""
    import paris_p2p

    here, installed = Path(paris_p2p.__file__).resolve(), distribution("paris-p2p")
    if sysconfig.get_path("purelib") not in str(here):
        return [f"{here} is imported, not what was installed into {sysconfig.get_path('purelib')}"]
    if installed.version != paris_p2p.__version__:
        return [f"the package says {paris_p2p.__version__}, its metadata {installed.version}"]
    return []


def check_data() -> list[str]:
    """Returns complaints about files that are not code."""
    import paris_p2p
    from paris_p2p.peer.profiles import known_profiles, load_profile
    from paris_p2p.score.page import Report, render

    folder, profiles = Path(paris_p2p.__file__).parent, known_profiles()
    complaints = [] if (folder / "py.typed").is_file() else ["py.typed is missing"]
    if not {"cpu", "gpu-24gb"} <= set(profiles):
        complaints.append(f"profiles are missing; there are {', '.join(profiles) or 'none'}")
    for name in profiles:
        load_profile(name)
    if "A title" not in render(Report("A title", (), (), ())):
        complaints.append("the report's template renders nothing")
    return complaints


def check_commands() -> list[str]:
    """Returns a complaint for each installed command that cannot print its help."""
    commands = [
        point.name for point in distribution("paris-p2p").entry_points if point.group == "console_scripts"
    ]
    complaints = [] if commands else ["no command is installed"]
    for name in commands:
        said = subprocess.run([Path(sys.executable).parent / name, "--help"], capture_output=True, text=True)
        if said.returncode or "Usage" not in said.stdout:
            complaints.append(f"`{name} --help` ended with {said.returncode}: {said.stderr.strip()[-300:]}")
    return complaints


if __name__ == "__main__":
    main()
