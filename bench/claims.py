"""Simulates claims with and without liars on a moved clock: tips an hour, and the longest wait for one.

    python -m bench.claims [--hours 1] [--experts 4] [--honest 50] [--liars 0,50,200] [--seed 0]

A fourth of the liars each backdates its claim for ever, squats for ever, releases and comes back, changes its
key; none makes a card. Honest leads make a checkpoint every 15 s (one in ten every minute) and leave after 5
to 20 minutes. The row `claims alone` is the rule without memory: the earliest `claimed_at` leads, for as long
as it is renewed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from unittest.mock import patch

from bench.row import print_row
from paris_p2p.node.hearing import Hearing
from paris_p2p.rules.heard import Heard
from tests.node.claims_world import ClaimsWorld, longest_gap_s, made_world
from tests.peer.world import World


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--honest", type=int, default=50)
    parser.add_argument("--liars", default="0,50,200")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for liars in (int(part) for part in options.liars.split(",")):
        for rule in ("claims alone", "claims and cards"):
            swarm = make_world(options, liars)
            start_s = swarm.now
            if rule == "claims alone":
                with patch.object(Hearing, "heard", lambda *_: Heard()):
                    swarm.run(int(3600 * options.hours))
            else:
                swarm.run(int(3600 * options.hours))
            report(swarm, rule, liars, start_s)


def make_world(options: argparse.Namespace, liars: int) -> ClaimsWorld:
    with tempfile.TemporaryDirectory(prefix="paris-bench-") as folder:
        return made_world(
            lambda gate, timing: World(Path(folder), experts=options.experts, gate=gate, timing=timing).run,
            honest=options.honest,
            liars=liars,
            seed=options.seed,
        )


def report(swarm: ClaimsWorld, rule: str, liars: int, start_s: float) -> None:
    hours = (swarm.now - start_s) / 3600
    rates = [len(tips) / hours for tips in swarm.tips.values()]
    firsts = [tips[0] - start_s for tips in swarm.tips.values() if tips]
    what = (
        f"claims, {rule}: {len(swarm.honest)} honest and {liars} lying peers, {len(swarm.tips)} slots, "
        f"{hours:.1f} h"
    )
    without = sum(not tips for tips in swarm.tips.values())
    gap_s = max(longest_gap_s(tips, start_s, swarm.now) for tips in swarm.tips.values())
    twice = swarm.doubled_s / (3600 * hours * len(swarm.tips))
    print_row(
        what,
        f"{sum(rates) / len(rates):.0f} tips per slot and hour (least {min(rates):.0f}; "
        f"{without} slots without one); "
        f"{f'the last first tip after {max(firsts):.0f} s, ' if firsts else ''}longest gap {gap_s:.0f} s; "
        f"trained twice {100 * twice:.1f} % of the time",
    )


if __name__ == "__main__":
    main()
