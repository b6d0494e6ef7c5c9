"""Main memory as this process may use it, a container's limits included."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from paris_p2p.byte_size import in_units
from paris_p2p.doctor.finding import Finding

# A node and its gate, and a trainer of the smallest expert; a node alone.
WANTED_BYTES, LEAST_BYTES = 4_000_000_000, 700_000_000
_CGROUP = Path("/sys/fs/cgroup")
# (limit, use) of the second and the first version of control groups
_CGROUP_FILES = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


@dataclass(frozen=True)
class MemoryFacts:
    """Bytes of main memory; `limit_bytes` is a container's, None without one."""

    total_bytes: int
    available_bytes: int
    limit_bytes: int | None = None
    limit_used_bytes: int = 0

    @property
    def usable_bytes(self) -> int:
        return self.total_bytes if self.limit_bytes is None else min(self.total_bytes, self.limit_bytes)

    @property
    def free_bytes(self) -> int:
        """Returns what this process could still get without swapping."""
        if self.limit_bytes is None:
            return self.available_bytes
        return min(self.available_bytes, max(0, self.limit_bytes - self.limit_used_bytes))


def read_memory(cgroup: Path = _CGROUP) -> MemoryFacts:
    """Returns what the kernel tells of the memory."""
    memory = psutil.virtual_memory()
    limit, used = _limit_in(cgroup, int(memory.total))
    return MemoryFacts(int(memory.total), int(memory.available), limit, used)


def judge_memory(facts: MemoryFacts) -> Finding:
    """Returns whether there is memory for a node and a trainer, whatever the run."""
    limited = facts.limit_bytes is not None and facts.limit_bytes < facts.total_bytes
    of = f", of the machine's {in_units(facts.total_bytes)}" if limited else ""
    verdict = (
        "cannot"
        if facts.usable_bytes < LEAST_BYTES
        else "poor"
        if facts.usable_bytes < WANTED_BYTES or facts.free_bytes < LEAST_BYTES
        else "good"
    )
    mend = "end programs that you do not need, or use a machine with more memory"
    return Finding(
        check="memory",
        verdict=verdict,
        found=f"{in_units(facts.usable_bytes)}{of}, {in_units(facts.free_bytes)} free",
        wanted=f"{in_units(WANTED_BYTES)}, {in_units(LEAST_BYTES)} of it free; a run may need more",
        mend="" if verdict == "good" else "give the container more memory" if limited else mend,
        numbers={"usable_bytes": float(facts.usable_bytes), "free_bytes": float(facts.free_bytes)},
    )


def _limit_in(cgroup: Path, total_bytes: int) -> tuple[int | None, int]:
    for limit_name, used_name in _CGROUP_FILES:
        limit = _number(cgroup / limit_name)
        if limit is not None and limit < total_bytes:  # version 1 writes a huge number for no limit
            return limit, _number(cgroup / used_name) or 0
    return None, 0


def _number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdigit() else None
