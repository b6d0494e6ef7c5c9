"""Gives a process that leads a session a low priority against everything else on the machine.

With autogroup scheduling (Linux: sched(7), "The autogroup feature") the kernel shares the processor between
sessions first, and a process's own nice value counts within its session alone. A trainer has a session of its
own, so the session's group gets the value too, in /proc/PID/autogroup.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

_TRIES, _PAUSE_S = 20, 0.11  # the kernel takes one such change in a tenth of a second, of all processes
Niced = Literal["done", "later", "not here", "not allowed"]


def nice_session(
    pid: int, nice: int, proc: Path = Path("/proc"), session_of: Callable[[int], int] = os.getsid
) -> Niced:
    """Gives the group of the session that a process leads a nice value.

    "not here" where the kernel has no such groups, or the process leads no session: its group is that of
    others then. "later" where the kernel takes no change just now.
    """
    try:
        if session_of(pid) != pid:
            return "not here"
        with (proc / str(pid) / "autogroup").open("r+b", buffering=0) as file:
            file.write(b"%d\n" % nice)
    except BlockingIOError:
        return "later"
    except (FileNotFoundError, ProcessLookupError):
        return "not here"
    except OSError:  # only root may raise it again, and some containers let nobody write there
        return "not allowed"
    return "done"


async def nice_session_soon(pid: int, nice: int, proc: Path = Path("/proc")) -> Niced:
    """Does it as soon as the kernel takes it; "later" where it did not within seconds."""
    for _ in range(_TRIES):
        niced = nice_session(pid, nice, proc)
        if niced != "later":
            return niced
        await asyncio.sleep(_PAUSE_S)
    return "later"
