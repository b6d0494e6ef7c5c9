"""Does the rounds of attested cards again, from what the swarm left on its disks: a check of its own, beside
those that the swarm's attestors made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.crew_swarm.evidence import Evidence, SeenCard
from bench.crew_swarm.findings import rounds_of, updates_of
from paris_p2p.crew_records import CrewRound
from paris_p2p.envelope import Envelope
from paris_p2p.errors import ParisError
from paris_p2p.records import CardRecord
from paris_p2p.spec import RunSpec
from paris_p2p.training.basis_state import load_basis
from paris_p2p.training.crew_messages import Basis, RoundFiles, UpdateFile
from paris_p2p.training.round_merge import CrewSlot


@dataclass
class Audit:
    """What came of doing an attested card's rounds again."""

    right: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # in words
    unseen: list[str] = field(
        default_factory=list
    )  # cards of which no disk had all files when it was looked at


def audit(run: Envelope[RunSpec], evidence: Evidence) -> Audit:
    """Checks every attested card of a crew, of all slots."""
    found = Audit()
    for slot in run.record.slots:
        if run.record.crew is None:
            continue
        crew_slot = CrewSlot.of(run.id, slot, run.record, run.record.crew)
        for card in evidence.merged(slot):
            _audit_card(evidence, crew_slot, card, found)
    return found


def _audit_card(evidence: Evidence, crew_slot: CrewSlot, card: SeenCard, found: Audit) -> None:
    name = f"{card.record.slot} epoch {card.record.epoch} seq {card.record.seq}"
    basis = _basis(evidence, card)
    if basis is None:
        found.unseen.append(name)
        return
    try:
        state = load_basis(crew_slot, basis)
        if not card.record.is_light:
            state = load_basis(crew_slot, _own_files(evidence, card))
        merged = crew_slot.hash_of(state)
    except ParisError as error:
        found.wrong.append(f"{name}: {error}")
        return
    if merged == card.record.merged:
        found.right.append(name)
    else:
        found.wrong.append(f"{name}: {merged[:16]}, not {card.record.merged[:16]}")


def _basis(evidence: Evidence, card: SeenCard) -> Basis | None:
    """Returns what a card's state is computed of: the full card before it, and its rounds."""
    record, parent = card.record, evidence.cards.get(card.record.parent)
    start = record if record.is_light else parent.record if parent else None
    made = rounds_of(evidence, card)
    if start is None or len(made) != len(record.rounds):
        return None
    weights, resume = evidence.path(start.weights), evidence.path(start.resume)
    files = [_files(evidence, one) for one in made]
    if weights is None or resume is None or None in files:
        return None
    return Basis(
        card=card.card.id,
        weights_path=weights,
        resume_path=resume,
        start_steps=made[0].steps_before,
        start_clips=made[0].clips_before,
        merged_start=made[0].merged_before,
        rounds=tuple(one for one in files if one is not None),
    )


def _own_files(evidence: Evidence, card: SeenCard) -> Basis:
    record = card.record
    return Basis(
        card=card.card.id,
        weights_path=_path(evidence, record, "weights"),
        resume_path=_path(evidence, record, "resume"),
        start_steps=record.steps,
        start_clips=record.clips,
        merged_start=record.merged,
    )


def _path(evidence: Evidence, record: CardRecord, which: str) -> Path:
    return evidence.kept / str(getattr(record, which).id)


def _files(evidence: Evidence, made: CrewRound) -> RoundFiles | None:
    """Returns a round with the files of its updates; None where one was never seen."""
    updates = updates_of(evidence, made)
    paths = [evidence.path(one.record.blob) for one in updates]
    if any(path is None for path in paths):
        return None
    known: Sequence[Path] = [path for path in paths if path is not None]
    return RoundFiles(
        steps_before=made.steps_before,
        clips_before=made.clips_before,
        steps=made.steps,
        clips=made.clips,
        full=made.full,
        merged=made.merged,
        updates=tuple(
            UpdateFile(
                update=one.id,
                signer=one.signer,
                path=path,
                steps=one.record.steps,
                clips=one.record.clips,
                first_clip=one.record.first_clip,
                train_loss=one.record.train_loss,
                late=each.late,
                scale=each.scale,
            )
            for one, each, path in zip(updates, made.updates, known, strict=True)
        ),
    )
