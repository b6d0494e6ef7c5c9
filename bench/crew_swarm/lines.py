"""Measures what slow lines and slow machines cost a crew: seconds of uploads, and how long rounds are open.

A card's way to its attestation is told apart: on a busy machine gates take longer than short rounds.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.crew_swarm.evidence import SeenCard
from bench.crew_swarm.findings import Claim, lineage, rounds_of, slot_facts, updates_of, write_report
from bench.crew_swarm.machines import slowed
from bench.crew_swarm.made import make_crew_run
from bench.crew_swarm.payloads import Payload, Sent, made_updates, measure
from bench.crew_swarm.room import Room, opened_room
from bench.row import machine
from examples.demo.processes import Node
from paris_p2p.crew_records import CrewSpec
from paris_p2p.model.presets import count_parameters
from paris_p2p.spec import TimingSpec
from tests.made.tiny_run import TRAINING, TinyRun, checkpoint_of, train_here

SLOT, PEERS = "expert-0", 4
CREW = CrewSpec(peers=PEERS, least_steps=5, most_steps=200, full_rounds=16)
# Rounds of 15 s: in shorter ones what a busy machine takes for gates and messages decides, and not the crew.
TIMING = TimingSpec(claim_s=30.0, settle_s=1.0, margin_s=2.0, checkpoint_s=45.0)
PRESET = "tiny"  # of the payloads
LINE, TENTH = "500KB", "50KB"  # a second, of the members but the lead
LONGER, SLOWER = 1.1, 1.25  # that a round may take, and that a line may take beyond what is computed
ROUNDS = 5  # that are measured in each phase


@dataclass(frozen=True)
class Phase:
    """The rounds of one stretch: how long each was open, from the attestation of the card before it to its
    own card, and how long its card then waited for an attestation.
    """

    name: str
    open_s: tuple[float, ...]
    attested_s: tuple[float, ...]
    late: int  # updates that came too late for their own round
    given_s: float  # the median of what the lead gave them
    steps_by_peer: dict[str, int]
    kept_by_peer: dict[str, int]  # bytes of the last update

    @property
    def round_s(self) -> float:
        return statistics.median(self.open_s)


def run(options: argparse.Namespace) -> bool:
    """Measures both, writes the report into `out`, and returns True when every claim holds."""
    out: Path = options.out
    sent = [] if options.rounds_only else measure(payloads(out / "payloads"), out / "lines")
    phases, facts = [] if options.payloads_only else measure_rounds(out), {"machine": machine()}
    report: dict[str, Any] = {
        **facts,
        "sent": [asdict(one) for one in sent],
        "phases": [asdict(one) for one in phases],
    }
    return write_report(out, report, [*line_claims(sent), *round_claims(phases)])


def payloads(folder: Path) -> list[Payload]:
    """Makes updates and a full checkpoint of one network, the checkpoint by one step of training."""
    folder.mkdir(parents=True)
    tiny = TinyRun(folder / "run", preset=PRESET, training=TRAINING.model_copy(update={"compact": True}))
    made = checkpoint_of(train_here(tiny.train_job(max_steps=1)))
    weights = Payload("weights, bf16", made.weights_path)
    resume = Payload("resume state of one lead, compact", made.resume_path)
    return [*made_updates(folder, count_parameters(tiny.spec.expert.config)), weights, resume]


def line_claims(sent: list[Sent]) -> Iterator[Claim]:
    if sent:
        worst = max(sent, key=lambda one: one.measured_s - SLOWER * one.computed_s)
        found = f"worst: {worst.measured_s:.1f} s for computed {worst.computed_s:.1f} s ({worst.name})"
        within = worst.measured_s <= SLOWER * worst.computed_s + 1
        yield Claim("lines take what is computed", within, found)


def round_claims(phases: list[Phase]) -> Iterator[Claim]:
    for phase in phases[1:]:
        ratio = phase.round_s / phases[0].round_s
        found = f"{ratio:.2f} of a quiet round ({phase.round_s:.1f} s, quiet {phases[0].round_s:.1f} s)"
        yield Claim(f"{phase.name} lengthens no round", ratio <= LONGER, found)


def measure_rounds(out: Path) -> list[Phase]:
    made = make_crew_run(out / "run", CREW, preset="micro", timing=TIMING)
    with opened_room(out, made) as room:
        lead = room.add("peer-1", "--slot", SLOT)
        room.wait("a lead", lambda: room.lead_of(SLOT) == room.peer_id(lead))
        others = [
            room.add(f"peer-{number}", "--slot", SLOT, "--upload-limit", LINE)
            for number in range(2, PEERS + 1)
        ]
        room.wait("rounds of the whole crew", lambda: whole_rounds(room, 0) >= 2, 600.0)
        phases = [phase(room, "nothing")]
        with slowed(others[0], 0.25, trainer_alone=True):
            phases.append(phase(room, "a machine four times slower"))
        with on_a_slow_line(others[1]):
            phases.append(phase(room, "a line of a tenth"))
        print(slot_facts(room.evidence, SLOT, room.names()), flush=True)
    return phases


@contextmanager
def on_a_slow_line(node: Node) -> Iterator[None]:
    """Starts a peer again with TENTH of a line instead of LINE."""
    node.stop()
    node.command[node.command.index(LINE)] = TENTH
    node.start()
    yield


def whole_rounds(room: Room, since: int) -> int:
    """Counts the rounds of at least PEERS - 1 updates after the first `since` merged cards."""
    cards = [one for one in lineage(room.evidence, SLOT) if one.is_merged][since:]
    return sum(len(rounds_of(room.evidence, one)[-1].updates) >= PEERS - 1 for one in cards)


def phase(room: Room, name: str) -> Phase:
    """Waits for ROUNDS rounds, the first two of which still belong to what was before."""

    def merged() -> list[SeenCard]:
        return [one for one in lineage(room.evidence, SLOT) if one.is_merged]

    since = len(merged()) + 1
    room.wait(f"{ROUNDS} rounds with {name}", lambda: len(merged()) > since + ROUNDS, 900.0)
    cards = merged()[since : since + ROUNDS + 1]
    names, steps, kept, late = room.names(), dict[str, int](), dict[str, int](), 0
    for card in cards[1:]:
        made = rounds_of(room.evidence, card)[-1]
        late += sum(one.late > 0 for one in made.updates)
        for update in updates_of(room.evidence, made):
            peer = names.get(update.signer, update.signer[-8:])
            steps[peer] = steps.get(peer, 0) + update.record.steps
            kept[peer] = update.record.blob.size_bytes
    found = Phase(
        name,
        tuple(round(b.record.issued_at - a.attested_at, 2) for a, b in pairwise(cards)),
        tuple(round(one.attested_at - one.record.issued_at, 2) for one in cards[1:]),
        late,
        statistics.median(one.record.round_s for one in cards),
        steps,
        kept,
    )
    print(f"  {found}", flush=True)
    return found
