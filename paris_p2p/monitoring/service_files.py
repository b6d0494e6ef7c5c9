"""Units are written, enabled and taken away again, through systemctl where a service manager runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paris_p2p.disk import explained, make_directory, write_atomic
from paris_p2p.errors import ParisError, UsageError
from paris_p2p.monitoring.unit_text import ServiceUnit, unit_text

MARK = "# Made by `paris service install"
_APPARMOR = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
_DEBIAN = Path("/proc/sys/kernel/unprivileged_userns_clone")
_MOST = Path("/proc/sys/user/max_user_namespaces")
_LIMIT_S = 300.0  # a stop waits for the last checkpoint


@dataclass(frozen=True)
class ServicePlace:
    """Where a unit of this name lies, and whose manager runs it."""

    name: str
    of_system: bool

    @property
    def path(self) -> Path:
        """Returns the unit's file."""
        if self.of_system:
            return Path("/etc/systemd/system") / f"{self.name}.service"
        home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
        return Path(home) / "systemd" / "user" / f"{self.name}.service"

    @property
    def invite_path(self) -> Path:
        """Returns the file that keeps the invite out of the list of processes."""
        if self.of_system:
            return Path("/etc/paris-p2p") / f"{self.name}.invite"
        home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
        return Path(home) / "paris-p2p" / f"{self.name}.invite"

    def systemctl(self, *words: str) -> list[str]:
        """Returns a command line of systemctl."""
        return ["systemctl", *([] if self.of_system else ["--user"]), *words]

    def journalctl(self, *words: str) -> list[str]:
        """Returns a command line of journalctl."""
        return ["journalctl", "-u" if self.of_system else "--user-unit", self.name, *words]


def users_have_namespaces() -> bool:
    """Tells whether this kernel lays out file systems for a user's services."""

    def reads(path: Path) -> str:
        return path.read_text().strip() if path.exists() else ""

    return reads(_APPARMOR) != "1" and reads(_DEBIAN) != "0" and reads(_MOST) != "0"


def install_unit(unit: ServiceUnit, place: ServicePlace, invite: str, *, starts: bool) -> list[str]:
    """Writes and enables a unit; returns what was done and what is left to do, in lines."""
    check_ours(place)
    if invite:
        with explained(place.invite_path):
            make_directory(place.invite_path.parent)
            write_atomic(place.invite_path, invite + "\n", mode=0o600)
    if unit.data_dir:  # it must be there before it can be laid open
        make_directory(Path(unit.data_dir))
    with explained(place.path):
        make_directory(place.path.parent)
        write_atomic(place.path, unit_text(unit))
    said = [f"wrote {place.path}"]
    todo = [place.systemctl("daemon-reload")]
    todo.append(place.systemctl("enable", *(["--now"] if starts else []), place.name))
    return said + _do(todo)


def uninstall_unit(place: ServicePlace) -> list[str]:
    """Stops and disables a unit, and deletes it and its invite; the node's own folder stays."""
    check_ours(place)
    if not place.path.exists():
        raise ParisError(f"there is no {place.path}; `paris service install` would write it")
    said = _do([place.systemctl("disable", "--now", place.name)])
    place.path.unlink()
    place.invite_path.unlink(missing_ok=True)
    return [
        *said,
        f"deleted {place.path}; the node's own folder is left",
        *_do([place.systemctl("daemon-reload")]),
    ]


def check_ours(place: ServicePlace) -> None:
    """Raises UsageError for a unit of that name that somebody else wrote."""
    if place.path.exists() and not place.path.read_text(errors="replace").startswith(MARK):
        raise UsageError(
            f"{place.path} was not written by `paris service`; move it, or choose another --name"
        )


def _do(commands: Sequence[Sequence[str]]) -> list[str]:
    """Runs commands of systemctl one after the other; returns what is left to type where one fails."""
    if shutil.which("systemctl") is None:
        raise ParisError("there is no systemctl here: this machine's services are not systemd's")
    for number, words in enumerate(commands):
        done = subprocess.run(words, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
        if done.returncode:
            why = (done.stderr or done.stdout).strip().splitlines() or [f"status {done.returncode}"]
            left = [f"  {' '.join(each)}" for each in commands[number:]]
            return [f"systemctl said: {why[-1]}", "what is left to do, once a service manager runs:", *left]
    return [" ".join(words) for words in commands]
