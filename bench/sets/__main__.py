"""Makes a set of pictures or of clips: `python -m bench.sets images OUT`.

The same call goes on where it ended.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from bench.clips.errors import WorldError
from bench.sets.making import RECIPES, Wish, make_set
from bench.sets.stamps import FOLDER
from paris_p2p.errors import ParisError


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.sets", description=__doc__)
    parser.add_argument("stage", choices=[*RECIPES])
    parser.add_argument("out", type=Path)
    parser.add_argument("--share", type=float, default=1.0, help="of the stage's clips; 0.01 to try it")
    parser.add_argument("--stamps", type=Path, default=FOLDER, help="where tuxpaint's stamps lie")
    parser.add_argument("--seed", type=int, default=0, help="RNG seed: the same one gives the same clips")
    parser.add_argument("--jobs", type=int, default=2, help="processes that draw")
    options = parser.parse_args()
    began_s = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - began_s:6.0f} s  {what}", file=sys.stderr, flush=True)

    torch.set_num_threads(options.jobs)
    wish = Wish(options.stage, options.out, options.share, options.stamps, options.seed, options.jobs)
    try:
        about = make_set(wish, say)
    except (WorldError, ParisError) as error:
        sys.exit(str(error))
    print(json.dumps(about.made, indent=1))


if __name__ == "__main__":
    main()
