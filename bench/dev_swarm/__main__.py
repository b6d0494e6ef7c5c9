"""Breaks a swarm of real processes for ten minutes, after five quiet ones to compare with.

    python -m bench.dev_swarm OUT [--minutes 10] [--peers 12] [--seed 7]

A kill every 20 s, a SIGSTOP longer than a claim every 60 s, a cut link every 90 s, by `paris dev-swarm`. It
prints a row for docs/benchmarks.md, writes OUT/found.json, and ends with the status of the command.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from bench.row import print_row

BREAK = ("--kill-every", "20s", "--pause-every", "60s", "--cut-every", "90s")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="emptied first")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--peers", type=int, default=12)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--claim-s", type=float, default=20.0)
    parser.add_argument("--quiet-minutes", type=float, help="half of --minutes, without")
    options = parser.parse_args()
    quiet = options.quiet_minutes or options.minutes / 2
    out: Path = options.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    found = out / "found.json"
    command = [
        *(sys.executable, "-m", "paris_p2p.cli.paris", "dev-swarm", str(out / "run"), "--tiny", *BREAK),
        *("--peers", str(options.peers), "--minutes", str(options.minutes), "--seed", str(options.seed)),
        *("--quiet-minutes", str(quiet), "--claim-s", str(options.claim_s)),
        *("--checkpoint-s", str(options.claim_s), "--keep", str(out / "nodes"), "--json", str(found)),
    ]
    status = subprocess.run(command, check=False).returncode
    if found.exists():
        _report(json.loads(found.read_text()))
    return status


def _report(found: dict) -> None:  # type: ignore[type-arg]
    spread, lost = found["hand_over_s"], [one["work_s"] for one in found["losses"]]
    kinds = [one["kind"] for one in found["troubles"]]
    broken = [one["name"] for one in found["held"] if not one["holds"]]
    print_row(
        f"{kinds.count('kill')} kills, {kinds.count('pause')} pauses, {kinds.count('cut')} cuts",
        f"{'all held' if not broken else 'FAILED: ' + '; '.join(broken)}; {spread['count']} hand-overs: "
        f"median {spread['median']:.0f} s, nine in ten within {spread['p90']:.0f} s, most "
        f"{spread['most']:.0f} s; of {len(lost)} killed leads at most {max(lost, default=0.0):.0f} s of work",
    )


if __name__ == "__main__":
    sys.exit(main())
