"""Reads another process's memory, as the operator of a machine can: its records, its keys, its thoughts.

What a node holds for others in the DHT lies in its memory alone, so this is how its DHT is searched. It needs
root, or the same user where the kernel allows that (ptrace_scope).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

PIECE_BYTES = 64 << 20
OVERLAP_BYTES = 4096  # what stands across two pieces is found in the second


def family(pid: int) -> list[int]:
    """Returns a process and all that it started."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def memory_of(pid: int) -> Iterator[bytes]:
    """Yields the writable memory of a process, piece by piece; what goes away meanwhile is passed over."""
    areas = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, rights = line.split(maxsplit=2)[:2]
        if rights.startswith("rw"):
            areas.append(tuple(int(end, 16) for end in span.split("-")))
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for start, end in areas:
            for at in range(start, end, PIECE_BYTES):
                size_bytes = min(PIECE_BYTES + OVERLAP_BYTES, end - at)
                try:
                    memory.seek(at)
                    yield memory.read(size_bytes)
                except (OSError, OverflowError):  # not there any more, or not to be read, such as [vvar]
                    continue
