"""Gives damaged inputs to every decoder that strangers reach, for long.

    python -m bench.fuzz [--inputs 1000000] [--seed 0] [--only NAME …]

Prints, for each decoder, how many inputs it took and refused, the longest time one took, and how much memory
the process grew by while it ran. Ends with an error at the first input that raises anything but a refusal,
takes more than a second, or after which the process is 100 MB larger than at the decoder's start.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.corpus import decoders
from tests.fuzz.decoder import Decoder

MAX_S = 1.0
MAX_GROWTH_BYTES = 100 << 20


def run(decoder: Decoder, inputs: int, seed: int) -> str:
    """Fuzzes one decoder, and returns its line of the table."""
    taken, longest_s, before_bytes = 0, 0.0, _peak_bytes()
    for number in range(inputs):
        name = f"{decoder.name} {seed} {number}"
        given = decoder.make(random.Random(name))
        began_s = time.perf_counter()
        try:
            decoder.decode(given)
            taken += 1
        except decoder.refusals:
            pass
        except BaseException:
            print(f"\n{name!r} gives {given!r}", file=sys.stderr)
            raise
        took_s = time.perf_counter() - began_s
        longest_s = max(longest_s, took_s)
        if took_s > MAX_S or _peak_bytes() - before_bytes > MAX_GROWTH_BYTES:
            grown = (_peak_bytes() - before_bytes) >> 20
            raise SystemExit(
                f"{name!r} took {took_s:.2f} s, and the process grew by {grown} MiB: {given[:200]!r}"
            )
    grown_mb = (_peak_bytes() - before_bytes) / 1e6
    return f"{decoder.name:<16} {inputs:>9,} {taken:>9,} {longest_s * 1000:>10.1f} {grown_mb:>8.1f}"


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=[])
    options = parser.parse_args()
    faulthandler.enable()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        chosen = [d for d in decoders(Path(folder)) if not options.only or d.name in options.only]
        shares = sum(decoder.share for decoder in chosen)
        print(f"{'decoder':<16} {'inputs':>9} {'taken':>9} {'longest ms':>10} {'grew MB':>8}", flush=True)
        total = 0
        for decoder in chosen:
            inputs = -(-options.inputs * decoder.share // shares)
            print(run(decoder, inputs, options.seed), flush=True)
            total += inputs
    print(f"{total:,} inputs: no crash, none over {MAX_S:.0f} s or {MAX_GROWTH_BYTES >> 20} MiB")


if __name__ == "__main__":
    main()
