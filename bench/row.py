"""Prints a measurement as a row of docs/benchmarks.md: what, how much, by which command, where, when."""

from __future__ import annotations

import os
import platform
import sys
import time
from pathlib import Path


def print_row(what: str, result: str) -> None:
    program = Path(sys.argv[0])
    name = program.parent.name if program.stem == "__main__" else program.stem
    command = " ".join(["python -m", f"bench.{name}", *sys.argv[1:]])
    print(f"| {what} | {result} | `{command}` | {machine()} | {time.strftime('%Y-%m-%d')} |", flush=True)


def machine() -> str:
    """Returns processor and cores, and how busy it was: a shared machine is slower than its name."""
    cpu = next(
        (line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")),
        platform.machine(),
    )
    return f"{cpu}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
