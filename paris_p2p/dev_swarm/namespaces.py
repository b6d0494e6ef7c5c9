"""Network namespaces of Linux, one for each node, on one switch: a node's link can be taken down alone.

They need root and iproute2. Their names begin with SPACES and the process id of the program that made them,
so that what a killed one left is found and deleted by the next.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from paris_p2p.errors import ParisError

SPACES = "paris-dev-"
ADDRESS = "11.22.33.{}"  # one that libp2p takes for public; nothing leaves the switch
MAX_SPACES = 250
_LINK = "wan"
_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Space:
    """Holds one node's namespace."""

    name: str
    address: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """Returns what a command is run by in here; the process stays the same one."""
        return "ip", "netns", "exec", self.name


class Switch:
    """Makes namespaces that reach each other, until `close`."""

    def __init__(self) -> None:
        self._mark = f"{SPACES}{os.getpid()}-"
        self._names: list[str] = []
        self._numbers = count(1)

    @property
    def mark(self) -> str:
        """Returns what all names begin with."""
        return self._mark

    def open(self) -> None:
        """Makes the switch itself; ParisError where this machine refuses."""
        self._middle = self._space("switch")
        _ip("-n", self._middle, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._middle, "link", "set", "bridge", "up")

    def add(self, name: str) -> Space:
        """Makes one more namespace with an address of its own."""
        number = next(self._numbers)
        space, port = Space(self._space(name), ADDRESS.format(number)), f"to-{number}"
        ends = ("type", "veth", "peer", "name", port, "netns", self._middle)
        _ip("-n", space.name, "link", "add", _LINK, *ends)
        _ip("-n", self._middle, "link", "set", port, "master", "bridge", "up")
        _ip("-n", space.name, "address", "add", f"{space.address}/24", "dev", _LINK)
        self.plug(space, "up")
        return space

    def plug(self, space: Space, state: str) -> None:
        """Takes a node's link "down", or brings it "up" again."""
        _ip("-n", space.name, "link", "set", _LINK, state)

    def close(self) -> None:
        delete_spaces(self._mark)

    def _space(self, name: str) -> str:
        space = self._mark + name
        _ip("netns", "add", space)
        self._names.append(space)
        _ip("-n", space, "link", "set", "lo", "up")
        return space


def why_no_spaces() -> str:
    """Says why this machine gives this program no namespaces; empty where it does."""
    if shutil.which("ip") is None:
        return "the command `ip` is not here (package iproute2)"
    if os.geteuid() != 0:
        return "namespaces need root"
    switch = Switch()
    try:
        switch.open()
        switch.add("try")
    except ParisError as error:
        return str(error)
    finally:
        switch.close()
    return ""


def enter(space: Space) -> None:
    """Moves the calling thread into a namespace: sockets that it opens from then on are in there. OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    with (_places() / space.name).open() as file:
        if library.setns(file.fileno(), _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), space.name)


def sweep_spaces() -> int:
    """Deletes the namespaces of programs that are gone, with what still runs there; returns how many."""
    pids = {name[len(SPACES) :].partition("-")[0] for name in _spaces()}
    marks = {f"{SPACES}{pid}-" for pid in pids if not _is_alive(pid)}
    return sum(delete_spaces(mark) for mark in marks)


def delete_spaces(mark: str) -> int:
    """Deletes all namespaces whose names begin so; returns how many there were."""
    names = [name for name in _spaces() if name.startswith(mark)]
    for name in names:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return len(names)


def _places() -> Path:
    return Path("/run/netns")


def _spaces() -> list[str]:
    return sorted(path.name for path in _places().glob(f"{SPACES}*")) if _places().is_dir() else []


def _is_alive(pid: str) -> bool:
    return pid.isdecimal() and Path(f"/proc/{pid}").exists()


def _ip(*words: str) -> str:
    done = subprocess.run(
        ["ip", *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        said = " ".join(done.stderr.split())[:200]
        raise ParisError(f"`ip {' '.join(words)}` failed: {json.dumps(said)}; run it as root, or --plain")
    return done.stdout
