"""Kills the lead of a crew of three again and again: how long until the next merged tip, and what is lost."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.crew_swarm.evidence import SeenCard
from bench.crew_swarm.findings import (
    Claim,
    clips_left_behind,
    lineage_rounds,
    rounds_of,
    slot_facts,
    updates_of,
    write_report,
)
from bench.crew_swarm.machines import kill
from bench.crew_swarm.made import make_crew_run
from bench.crew_swarm.room import Room, opened_room
from bench.row import machine
from examples.demo.processes import Node
from paris_p2p.crew_records import CrewSpec

SLOT, PEERS = "expert-0", 3
CREW = CrewSpec(peers=4, least_steps=5, most_steps=60, full_rounds=4)
ROUNDS_BEFORE = 3  # with the whole crew, before a lead is killed


@dataclass(frozen=True)
class Death:
    """One lead's death; seconds are since the SIGKILL."""

    lead: str
    steps_at_tip: int
    claimed_s: float  # by another peer, as the owner sees it
    merged_tip_s: float
    round_s: float  # that the tip before gave
    bound_s: float  # claim + settle + round
    updates_merged: int  # in the first round after it
    steps_lost: int  # of the dead lead's, since the tip, by what it said last
    clips_lost: int  # of the others' streams, that never went into the slot


def run(options: argparse.Namespace) -> bool:
    """Kills leads, writes the report into `out`, and returns True when every claim holds."""
    out: Path = options.out
    made = make_crew_run(out / "run", CREW)
    with opened_room(out, made) as room:
        for number in range(1, PEERS + 1):
            room.add(f"peer-{number}", "--slot", SLOT)
        deaths = [one_death(room) for _ in range(options.deaths)]
        facts = {
            "machine": machine(),
            "timing": made.record.timing.model_dump(),
            "deaths": [asdict(one) for one in deaths],
            "slot": slot_facts(room.evidence, SLOT, room.names()),
        }
    return write_report(out, facts, list(claims_of(deaths)))


def claims_of(deaths: list[Death]) -> Iterator[Claim]:
    shares = [one.merged_tip_s / one.bound_s for one in deaths]
    found = (
        f"median {statistics.median(one.merged_tip_s for one in deaths):.1f} s, "
        f"{', '.join(f'{share:.2f}' for share in shares)} of claim + settle + one round"
    )
    yield Claim("the next merged tip comes within claim + settle + one round", max(shares) <= 1, found)
    lost = [one.clips_lost for one in deaths]
    yield Claim("no work of those who live is lost", not any(lost), f"clips lost: {lost}")


def one_death(room: Room) -> Death:
    """Waits for rounds of the whole crew, kills its lead, and waits for another's merged tip."""
    lead = room.wait("rounds of the whole crew", lambda: ready(room))
    tip = newest(room)
    if tip is None:
        raise SystemExit("there is no merged tip")
    time.sleep(tip.record.round_s / 2)  # in the middle of a round, roughly
    tip = newest(room) or tip
    training = lead.last_status.get("training") or {}
    dead, killed_s = room.peer_id(lead), time.monotonic()
    room.unasked.add(lead.name)
    kill(lead)
    room.wait("another's claim", lambda: room.lead_of(SLOT) not in ("", dead))
    claimed_s = time.monotonic() - killed_s
    after = room.wait("another's merged tip", lambda: follower(room, tip, dead))
    timing = room.run.record.timing
    made = rounds_of(room.evidence, after)
    found = Death(
        lead=lead.name,
        steps_at_tip=tip.record.steps,
        claimed_s=claimed_s,
        merged_tip_s=after.seen_s - killed_s,
        round_s=tip.record.round_s,
        bound_s=timing.claim_s + timing.settle_s + tip.record.round_s,
        updates_merged=len(made[-1].updates) if made else 0,
        steps_lost=max(0, int(training.get("steps", 0)) - tip.record.steps),
        clips_lost=clips_left_behind(room.evidence, SLOT, but=dead),
    )
    print(f"  {found}", flush=True)
    lead.start()
    room.unasked.discard(lead.name)
    return found


def newest(room: Room) -> SeenCard | None:
    return max(room.evidence.merged(SLOT), key=lambda one: (one.record.epoch, one.record.seq), default=None)


def follower(room: Room, tip: SeenCard, dead: str) -> SeenCard | None:
    """Returns an attested merged card of another peer's that came after a tip."""
    those = (one for one in room.evidence.merged(SLOT) if one.card.signer != dead)
    return next((one for one in those if one.record.epoch > tip.record.epoch), None)


def ready(room: Room) -> Node | None:
    """Returns the lead once the last rounds were of the whole crew, itself among it."""
    last = [made for _, made in lineage_rounds(room.evidence, SLOT)][-ROUNDS_BEFORE:]
    crews = [{update.signer for update in updates_of(room.evidence, made)} for made in last]
    lead = next((node for node in room.swarm.volunteers if room.peer_id(node) == room.lead_of(SLOT)), None)
    whole = len(last) == ROUNDS_BEFORE and all(len(crew) >= PEERS for crew in crews)
    return lead if whole and lead is not None and lead.running else None
