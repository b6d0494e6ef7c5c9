"""Ends everything that a dev-swarm started once that is gone, however it went: `kill -9` too.

    python -m paris_p2p.dev_swarm.warden MARK SPACES

It waits for the end of its stdin, which only the dev-swarm holds open. Then it kills all processes that carry
the MARK in their environment, halted ones too, and deletes the namespaces whose names begin with SPACES.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from paris_p2p.dev_swarm.namespaces import delete_spaces

MARK = "PARIS_DEV_SWARM"  # a variable that all processes of a dev-swarm inherit
_PATIENCE_S = 10.0


def new_mark() -> str:
    """Returns the mark of the dev-swarm that this process is."""
    return f"{os.getpid()}-{os.urandom(4).hex()}"


def all_marked() -> dict[int, str]:
    """Returns the marks of all processes that carry one, but for this one."""
    found, before = {}, f"{MARK}=".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "environ").read_bytes().split(b"\0")
            mark = next((word[len(before) :] for word in words if word.startswith(before)), b"")
            if mark and int(folder.name) != os.getpid():
                found[int(folder.name)] = mark.decode(errors="replace")
    return found


def marked(mark: str) -> list[int]:
    """Returns the ids of all processes that carry a mark, but for this one."""
    return [pid for pid, carried in all_marked().items() if carried == mark]


def kill_orphans() -> int:
    """Kills what dev-swarms left that are gone, and their wardens too; returns how many processes."""
    marks = {mark for mark in all_marked().values() if not Path(f"/proc/{mark.partition('-')[0]}").exists()}
    return sum(kill_marked(mark) for mark in marks)


def kill_marked(mark: str, patience_s: float = _PATIENCE_S) -> int:
    """Kills what carries a mark until nothing does any more; returns how many processes there were."""
    killed: set[int] = set()
    ends_s = time.monotonic() + patience_s
    while (there := marked(mark)) and time.monotonic() < ends_s:
        for pid in there:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed.update(there)
        time.sleep(0.05)
    return len(killed)


def main() -> None:
    """Waits, and cleans up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the dev-swarm, which ends this by its pipe
    mark, spaces = sys.argv[1], sys.argv[2]
    while os.read(0, 4096):
        pass
    kill_marked(mark)
    if spaces:
        delete_spaces(spaces)


if __name__ == "__main__":
    main()
