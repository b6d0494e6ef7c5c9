"""Makes each attack against a real node on loopback, and prints what it cost the node.

    python -m bench.attacks [--only NAME …] [--out FILE] [--before FILE]

The stall is the longest time the node's event loop did not run while the attack did; memory and p2pd are the
largest resident sizes. `--out` writes the figures as JSON; `--before` puts those of another run, of older
code, beside them. Another attack is a coroutine in a module here, and a line in ATTACKS.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench.attacks import dht, gossip, invited, places
from bench.attacks.lab import Lab, lab

ATTACKS: dict[str, Callable[[Lab], Awaitable[None]]] = {
    "nested-request": dht.nested_request,
    "nested-answer": dht.nested_answer,
    "fat-key": dht.fat_key,
    "fat-key-again": dht.fat_key_again,
    "wrong-signatures": dht.wrong_signatures,
    "wrong-signatures-again": dht.wrong_signatures_within_size,
    "good-signatures": dht.good_signatures,
    "made-up-nodes": dht.made_up_nodes,
    "large-gossip": gossip.large_messages,
    "much-gossip": gossip.many_messages,
    "subscriptions": gossip.subscriptions,
}
OTHERS: dict[str, Callable[[Path], Awaitable[str]]] = {
    "junk-runs": places.junk_runs,
    "claims-since-1970": invited.claims_since_1970,
    "made-up-quorum": invited.made_up_quorum,
    "cards-without-a-claim": invited.cards_without_a_claim,
}  # with a victim of their own
SETTLE_LINES = 15  # of the victim's, after the attack


async def run(names: list[str]) -> dict[str, list[str]]:
    """Makes the attacks, and returns (what was done, what it cost) by the attack's name."""
    costs: dict[str, list[str]] = {}
    for name, attack in ATTACKS.items():
        if not names or name in names:
            async with lab() as room:
                await attack(room)
                await room.victim.settle(SETTLE_LINES)
                costs[name] = [_first_line(attack), room.victim.cost()]
            print(f"{name}: {costs[name][1]}", flush=True)
    for name, other in OTHERS.items():
        if not names or name in names:
            with tempfile.TemporaryDirectory(prefix="attack-") as folder:
                costs[name] = [_first_line(other), await other(Path(folder))]
            print(f"{name}: {costs[name][1]}", flush=True)
    return costs


def _first_line(attack: Callable[..., object]) -> str:
    return (attack.__doc__ or "").splitlines()[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[], choices=[*ATTACKS, *OTHERS], metavar="NAME")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--before", type=Path)
    options = parser.parse_args()
    before = json.loads(options.before.read_text()) if options.before else {}
    costs = asyncio.run(run(options.only))
    if options.out:
        options.out.write_text(json.dumps(costs, indent=1))
    print("\n| attack | before | after |\n|---|---|---|")
    for name, (what, cost) in costs.items():
        print(f"| {what} | {before.get(name, ['', '–'])[1]} | {cost} |")


if __name__ == "__main__":
    main()
