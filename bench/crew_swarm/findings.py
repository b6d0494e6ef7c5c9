"""Says what a swarm's disks show of its crews: rounds, who contributed, and whether a claim holds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.crew_swarm.evidence import Evidence, SeenCard
from paris_p2p.crew_records import CrewRound, UpdateRecord
from paris_p2p.envelope import Envelope, open_envelope
from paris_p2p.round_file import decode_round


@dataclass(frozen=True)
class Claim:
    """Something that must hold, and what was found."""

    name: str
    holds: bool
    found: str


def rounds_of(evidence: Evidence, card: SeenCard) -> list[CrewRound]:
    """Returns the rounds that a card names and that some disk had, the oldest first."""
    paths = [evidence.path(ref) for ref in card.record.rounds]
    return [decode_round(path.read_bytes(), evidence.run, card.record.slot) for path in paths if path]


def updates_of(evidence: Evidence, made: CrewRound) -> list[Envelope[UpdateRecord]]:
    return [open_envelope(one.envelope, run=evidence.run, kinds=("update",)) for one in made.updates]


def lineage(evidence: Evidence, slot: str) -> list[SeenCard]:
    """Returns the attested cards from the slot's newest back to its first, in the order they were made."""
    newest = max(evidence.attested(slot), key=lambda one: (one.record.epoch, one.record.seq), default=None)
    found: list[SeenCard] = []
    while newest is not None:
        found.append(newest)
        newest = evidence.cards.get(newest.record.parent)
    return found[::-1]


def lineage_rounds(evidence: Evidence, slot: str) -> Iterator[tuple[SeenCard, CrewRound]]:
    """Yields every round along the slot's lineage once, with the first card that names it."""
    seen: set[str] = set()
    for card in lineage(evidence, slot):
        for ref, made in zip(card.record.rounds, rounds_of(evidence, card), strict=False):
            if ref.id not in seen:
                seen.add(ref.id)
                yield card, made


def slot_facts(evidence: Evidence, slot: str, names: Mapping[str, str]) -> dict[str, Any]:
    """Returns what a slot's lineage shows, for the report."""
    cards = lineage(evidence, slot)
    clips: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    sizes: list[int] = []
    for _, made in lineage_rounds(evidence, slot):
        sizes.append(len(made.updates))
        refused.update(one.reason for one in made.refused)
        for update in updates_of(evidence, made):
            clips[names.get(update.signer, update.signer[-8:])] += update.record.clips
    return {
        "tips": len(cards),
        "merged_tips": sum(one.is_merged for one in cards),
        "light_tips": sum(one.record.is_light for one in cards),
        "rounds": len(sizes),
        "updates": sum(sizes),
        "most_updates_of_a_round": max(sizes, default=0),
        "clips": cards[-1].record.clips if cards else 0,
        "steps": cards[-1].record.steps if cards else 0,
        "merged_clips_by_peer": dict(clips.most_common()),
        "left_out_by_reason": dict(refused),
        "leads": list(dict.fromkeys(names.get(one.card.signer, one.card.signer[-8:]) for one in cards)),
        "clips_passed_over": clips_left_behind(evidence, slot),
        "merged_tips_after_s": [
            round(one.record.issued_at - cards[0].record.issued_at, 1) for one in cards if one.is_merged
        ],
    }


def counted_twice(evidence: Evidence, slot: str) -> list[str]:
    """Returns in words which clips of a peer's stream went into a slot's lineage more than once."""
    upto: dict[str, int] = {}
    found = []
    for _, made in lineage_rounds(evidence, slot):
        for update in updates_of(evidence, made):
            record = update.record
            if record.first_clip < upto.get(update.signer, 0):
                found.append(f"{slot}: {update.signer[-8:]} from clip {record.first_clip} again")
            upto[update.signer] = max(upto.get(update.signer, 0), record.first_clip + record.clips)
    return found


def clips_left_behind(evidence: Evidence, slot: str, but: str = "") -> int:
    """Returns how many clips of the peers' streams were passed over between updates that were merged."""
    upto: dict[str, int] = {}
    left = 0
    for _, made in lineage_rounds(evidence, slot):
        for update in updates_of(evidence, made):
            record = update.record
            if update.signer != but:
                left += max(0, record.first_clip - upto.get(update.signer, 0))
            upto[update.signer] = record.first_clip + record.clips
    return left


def write_report(out: Path, facts: Mapping[str, Any], claims: Sequence[Claim]) -> bool:
    """Writes report.json and says every claim; returns True when all hold."""
    out.mkdir(parents=True, exist_ok=True)
    report = {**facts, "claims": [asdict(claim) for claim in claims]}
    (out / "report.json").write_text(json.dumps(report, indent=1))
    for claim in claims:
        print(f"{'holds' if claim.holds else 'FAILS'}: {claim.name}: {claim.found}", flush=True)
    return all(claim.holds for claim in claims)
