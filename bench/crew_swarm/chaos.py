"""Ten minutes of a real swarm whose machines die, stand still and are slow, one of them cheating."""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.crew_swarm.audit import audit
from bench.crew_swarm.cheating_trainer import KINDS, NOTES, UNPROVEN
from bench.crew_swarm.evidence import Evidence
from bench.crew_swarm.findings import Claim, counted_twice, slot_facts, write_report
from bench.crew_swarm.made import make_crew_run
from bench.crew_swarm.room import Room, opened_room
from bench.crew_swarm.troubles import Trouble, Troublemaker
from bench.row import machine
from paris_p2p.crew_records import CrewSpec
from paris_p2p.spec import TimingSpec

EXPERTS, VOLUNTEERS = 2, 8
CHEAT, CHEATED_SLOT = "cheat", "expert-1"
CREW = CrewSpec(peers=6, least_steps=5, most_steps=60, full_rounds=4)
TRACEBACK = re.compile(r"Traceback \(most recent call last\):\n(?:[ \t].*\n)*(.*)")
# Eighteen processes with torch start and die on two cores: claims and cards get the time that this takes.
TIMING = TimingSpec(claim_s=30.0, settle_s=1.0, margin_s=2.0, checkpoint_s=18.0)
START_PAUSE_S = 3.0  # between two machines
STRETCHES = 3  # of the time, in each of which every slot's merged tip is to move


def run(options: argparse.Namespace) -> bool:
    """Runs the swarm, writes the report into `out`, and returns True when every claim holds."""
    out: Path = options.out
    made = make_crew_run(out / "run", None if options.no_crew else CREW, experts=EXPERTS, timing=TIMING)
    with opened_room(out, made) as room:
        if made.record.crew:
            room.add(CHEAT, "--slot", CHEATED_SLOT, program=(sys.executable, "-m", "bench.crew_swarm.cheat"))
            room.wait("the cheat to lead", lambda: room.lead_of(CHEATED_SLOT))
        for number in range(len(room.swarm.volunteers) + 1, options.volunteers + 1):
            room.add(f"peer-{number}")
            time.sleep(START_PAUSE_S)
        room.wait("a tip of every slot", room.swarm.tips, 600.0)
        begins_s = room.now_s
        print(f"every slot has a tip after {begins_s:.0f} s; the troubles begin", flush=True)
        troubles = Troublemaker(room, random.Random(options.seed), frozenset({CHEAT}))
        troubles.run(60 * options.minutes)
        ends_s = room.now_s
        room.evidence.look()
        audited, cheats = audit(made, room.evidence), cheats_of(room)
        facts = {
            "machine": machine(),
            "began_s": begins_s,
            "ended_s": ends_s,
            "restarts_of_p2pd": {
                node.name: node.last_status.get("daemon_restarts", 0) for node in room.swarm.volunteers
            },
            "troubles": troubles.as_rows(),
            "slots": {slot: slot_facts(room.evidence, slot, room.names()) for slot in made.record.slots},
            "refused_cards": refusals(room),
            "audit": asdict(audited),
            "cheats": cheats,
        }
        claims = [
            *claims_of(room, troubles.told, (begins_s, ends_s)),
            *([next(cheat_claims(cheats))] if cheats else ()),
            Claim(
                "every attested card's rounds, done again here, give the state that it names",
                bool(audited.right) and not audited.wrong,
                f"{len(audited.right)} do, {len(audited.wrong)} do not, {len(audited.unseen)} left too few "
                f"files; {'; '.join(audited.wrong)}",
            ),
        ]
    return write_report(out, facts, claims)


def refusals(room: Room) -> dict[str, int]:
    """Counts the refused cards by reason over all nodes that are there."""
    total: Counter[str] = Counter()
    for node in [room.swarm.owner, *room.swarm.volunteers]:
        total.update(node.last_status.get("refused_cards", {}))
    return dict(total)


def cheats_of(room: Room) -> list[dict[str, Any]]:
    """Returns what the cheat did to which states, and who attested cards that name them."""
    notes = room.root / CHEAT / NOTES
    lines = notes.read_text().splitlines() if notes.exists() else []
    found, names = [], room.names()
    for note in map(json.loads, lines):
        # another's honest card may name the same state: "add" changes none
        own = (one for one in room.evidence.cards.values() if names.get(one.card.signer) == CHEAT)
        cards = [one for one in own if one.record.merged == note["merged"]]
        attested_by = sorted({names.get(peer, peer) for one in cards for peer in one.attested_by})
        found.append({**note, "cards": len(cards), "attested_by": attested_by})
    return found


def cheat_claims(cheats: list[dict[str, Any]]) -> Iterator[Claim]:
    """Yields that nobody attested what was plainly cheated, and that every way of cheating was there."""
    told = Counter(one["kind"] for one in cheats if one["cards"])
    taken = Counter(one["kind"] for one in cheats if one["attested_by"])
    words = ", ".join(f"{taken[kind]} of {told[kind]} by {kind}" for kind in KINDS)
    proven = [kind for kind in taken if kind not in UNPROVEN]
    yield Claim("a cheating lead is not attested", not proven, f"attested: {words}")
    yield Claim("it cheated in every way", all(told[kind] for kind in KINDS), words)


def claims_of(room: Room, told: list[Trouble], between_s: tuple[float, float]) -> list[Claim]:
    """Returns what must hold after the ten minutes."""
    evidence, slots = room.evidence, room.run.record.slots
    twice = [words for slot in slots for words in counted_twice(evidence, slot)]
    behind = [f"{one.machine} at {one.at_s:.0f} s" for one in told if one.left_behind]
    tracebacks = faults_in_logs(room.root / "logs")
    return [
        *(advances(evidence, slot, room.began_s, between_s) for slot in slots),
        Claim("no clips of a peer are counted twice", not twice, "; ".join(twice) or "none"),
        Claim("nothing outlives its killed node", not behind, "; ".join(behind) or "nothing"),
        Claim("no node shows an error of its own", not tracebacks, "; ".join(tracebacks) or "none"),
    ]


def advances(evidence: Evidence, slot: str, began_s: float, between_s: tuple[float, float]) -> Claim:
    """Says whether a slot's merged tip moved in each of STRETCHES of the time."""
    first_s, last_s = between_s
    length_s = (last_s - first_s) / STRETCHES
    at_s = [one.seen_s - began_s for one in evidence.merged(slot)]
    counts = [
        sum(first_s + part * length_s <= one < first_s + (part + 1) * length_s for one in at_s)
        for part in range(STRETCHES)
    ]
    found = f"{', '.join(map(str, counts))} new merged tips in {STRETCHES} stretches of {length_s:.0f} s"
    if slot == CHEATED_SLOT:  # it stands still for as long as the cheat may lead it
        return Claim(f"{slot}'s merged tip advances once the cheat lost it", counts[-1] > 0, found)
    return Claim(f"{slot}'s merged tip advances", min(counts) > 0, found)


def faults_in_logs(logs: Path) -> list[str]:
    """Returns the last lines of what looks like a fault of the program in the nodes' logs."""
    found = []
    for file in sorted(logs.iterdir()):
        text = file.read_text(errors="replace")
        found += [f"{file.stem}: {match[1][:160]}" for match in TRACEBACK.finditer(text)]
    return found
