"""Shows crews in a real swarm on loopback: bootstrap node, owner and volunteers, each a process of its own.

    python -m bench.crew_swarm chaos OUT --minutes 10 --seed 1
    python -m bench.crew_swarm death OUT --deaths 5
    python -m bench.crew_swarm lines OUT
    python -m bench.crew_swarm cheat OUT

`chaos`: eight volunteers on two experts and a router are killed, stopped and slowed at random, one of them
cheats when it leads. `cheat`: a crew whose lead cheats in every way, until it is gone. `death`: the lead of
a crew of three is killed again and again; measured is the time to its successor's first merged tip. `lines`:
how long updates and full checkpoints take over slow lines, and how long rounds take beside a slow machine.
Each writes OUT/report.json, and ends with status 1 where a claim does not hold.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from pathlib import Path

from bench.crew_swarm import chaos, cheated, death, lines


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.crew_swarm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_subparsers(required=True)
    one = what.add_parser("chaos")
    one.add_argument("--minutes", type=float, default=10.0)
    one.add_argument("--seed", type=int, default=1)
    one.add_argument("--volunteers", type=int, default=chaos.VOLUNTEERS)
    one.add_argument("--no-crew", action="store_true", help="one peer a slot, to try the program itself")
    one.set_defaults(run=chaos.run)
    two = what.add_parser("death")
    two.add_argument("--deaths", type=int, default=5)
    two.set_defaults(run=death.run)
    four = what.add_parser("cheat")
    four.set_defaults(run=cheated.run)
    three = what.add_parser("lines")
    three.add_argument("--payloads-only", action="store_true")
    three.add_argument("--rounds-only", action="store_true")
    three.set_defaults(run=lines.run)
    for parsed in what.choices.values():
        parsed.add_argument("out", type=Path, help="emptied first")
    options = parser.parse_args()
    options.out = options.out.resolve()
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the nodes end with this program
    sys.exit(0 if options.run(options) else 1)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
