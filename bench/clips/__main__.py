"""Makes the benchmark's clips: `python -m bench.clips OUT --clips 8000`.

The same call goes on where it ended.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

from bench.clips.errors import WorldError
from bench.clips.make import make
from bench.clips.worlds import WORLDS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.clips", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--clips", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=0, help="RNG seed: the same one gives the same clips")
    parser.add_argument(
        "--domains", default=",".join(WORLDS), help="worlds to record in, with commas (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes")
    arguments = parser.parse_args()
    domains = tuple(dict.fromkeys(arguments.domains.split(",")))
    if unknown := [name for name in domains if name not in WORLDS]:
        parser.error(f"no world is called {', '.join(unknown)}; there are {', '.join(WORLDS)}")
    if arguments.clips < 1 or arguments.workers < 1 or arguments.seed < 0:
        parser.error("--clips and --workers are at least 1, --seed at least 0")
    began_s = time.monotonic()

    def report(done: int, total: int) -> None:
        print(
            f"\r{done} of {total} clips, {time.monotonic() - began_s:.0f} s",
            end="",
            file=sys.stderr,
            flush=True,
        )

    try:
        rows = make(arguments.out, arguments.clips, arguments.seed, domains, arguments.workers, report)
    except (WorldError, ValueError) as error:
        sys.exit(f"\n{error}")
    counts = Counter(row["domain"] for row in rows)
    print(
        f"\n{len(rows)} clips in {arguments.out}: "
        + ", ".join(f"{count} {name}" for name, count in counts.items())
    )


if __name__ == "__main__":
    main()
