"""Says what making a set may be told on the command line, and makes it.

Packages of the games are imported when a set is made: to judge one takes none of them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from bench.clips.errors import WorldError

SETS = Path("bench-out/sets")
STAGES = ("images", "clips")
STAMPS = Path("/usr/share/tuxpaint/stamps")  # of Debian's package


def add_set_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument(
        "--out", type=Path, help=f"its folder; without, it is {SETS}/images, or {SETS}/clips-SEED"
    )
    parser.add_argument("--share", type=float, default=1.0, help="of the stage's clips; 0.01 to try it")
    parser.add_argument("--stamps", type=Path, default=STAMPS, help="where tuxpaint's stamps lie")
    parser.add_argument("--seed", type=int, default=0, help="RNG seed: the same one gives the same clips")
    parser.add_argument("--jobs", type=int, default=2, help="processes that draw, and threads of networks")


def make_by(options: argparse.Namespace) -> None:
    """Makes the set that is asked for, and prints what it is; what is missing is told, and ends it."""
    began_s = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - began_s:6.0f} s  {what}", file=sys.stderr, flush=True)

    try:
        from bench.sets.making import Wish, make_set
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is not installed; to make sets, run `pip install -e '.[bench]'`")
    name = f"clips-{options.seed}" if options.stage == "clips" else options.stage
    out = (options.out or SETS / name).absolute()  # processes that draw work in folders of their own
    stamps = options.stamps.absolute()
    wish = Wish(options.stage, out, options.share, stamps, options.seed, options.jobs)
    try:
        about = make_set(wish, say)
    except WorldError as error:
        sys.exit(str(error))
    print(json.dumps(about.made, indent=1))
