"""Times `--help` of the commands against the 0.4 s a person waits without noticing.

    .venv/bin/python bench/help_time.py [--runs 15]

Prints one JSON object; exits 1 when a command's median is over the limit.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("paris", "paris-peer", "paris-run", "paris-bootstrap")
LIMIT_S = 0.4


def help_time_s(command: Path) -> float:
    start = time.perf_counter()
    subprocess.run([command, "--help"], check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--runs", type=int, default=15, help="runs of each command, after one that fills the disk cache"
    )
    runs = parser.parse_args().runs
    commands = {name: Path(sys.executable).with_name(name) for name in COMMANDS}
    for command in commands.values():
        help_time_s(command)
    # Command by command in turn, so that a busy moment does not fall on one of them only.
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            times[name].append(help_time_s(command))
    medians = {name: round(statistics.median(each), 3) for name, each in times.items()}
    worst = {name: round(max(each), 3) for name, each in times.items()}
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    print(
        json.dumps(
            {"median_s": medians, "worst_s": worst, "runs": runs, "limit_s": LIMIT_S, "machine": machine},
            indent=2,
        )
    )
    return int(max(medians.values()) > LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
