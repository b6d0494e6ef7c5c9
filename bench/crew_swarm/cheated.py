"""A crew of three whose lead cheats, each time in another way; then the lead dies, and the others go on."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from bench.crew_swarm.audit import audit
from bench.crew_swarm.chaos import CHEAT, cheat_claims, cheats_of, refusals
from bench.crew_swarm.cheating_trainer import KINDS
from bench.crew_swarm.findings import Claim, slot_facts, write_report
from bench.crew_swarm.machines import kill
from bench.crew_swarm.made import make_crew_run
from bench.crew_swarm.room import Room, opened_room
from bench.row import machine
from paris_p2p.crew_records import CrewSpec

SLOT, WORKERS = "expert-0", 2
CREW = CrewSpec(peers=4, least_steps=5, most_steps=60, full_rounds=4)


def run(options: argparse.Namespace) -> bool:
    """Runs the crew, writes the report into `out`, and returns True when every claim holds."""
    out: Path = options.out
    made = make_crew_run(out / "run", CREW)
    with opened_room(out, made) as room:
        cheat = room.add(CHEAT, "--slot", SLOT, program=(sys.executable, "-m", "bench.crew_swarm.cheat"))
        room.wait("the cheat to lead", lambda: room.lead_of(SLOT))
        for number in range(1, WORKERS + 1):
            room.add(f"peer-{number}", "--slot", SLOT)
        room.wait("every way of cheating", lambda: cheated(room), 600.0)
        cheater = room.peer_id(cheat)
        kill(cheat)
        after = room.wait("a merged tip of another", lambda: honest_tips(room, cheater), 300.0)
        cheats, audited = cheats_of(room), audit(made, room.evidence)
        facts = {
            "machine": machine(),
            "cheats": cheats,
            "refused_cards": refusals(room),
            "slot": slot_facts(room.evidence, SLOT, room.names()),
        }
        found = f"{len(audited.right)} do, {len(audited.wrong)} do not; {'; '.join(audited.wrong)}"
        claims = [
            *cheat_claims(cheats),
            Claim("the others go on when it is gone", after > 0, f"{after} merged tips of others"),
            Claim("every attested card's rounds give the state that it names", not audited.wrong, found),
        ]
    return write_report(out, facts, claims)


def cheated(room: Room) -> bool:
    """Tells whether the cheat signed a card for every way of cheating."""
    told = Counter(one["kind"] for one in cheats_of(room) if one["cards"])
    return all(told[kind] for kind in KINDS)


def honest_tips(room: Room, cheater: str) -> int:
    return sum(one.card.signer != cheater for one in room.evidence.merged(SLOT))
