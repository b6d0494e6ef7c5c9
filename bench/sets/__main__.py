"""Makes a set of pictures or of clips: `python -m bench.sets images`.

It is what `python -m bench.when_experts_win make` does; the same call goes on where it ended.
"""

from __future__ import annotations

import argparse
import sys

from bench.sets.command import add_set_options, make_by
from paris_p2p.errors import ParisError


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.sets", description=__doc__)
    add_set_options(parser)
    try:
        make_by(parser.parse_args())
    except ParisError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
