"""Why an attestor must not accept the rounds of a crew's card, from records alone: before a byte of an
update's file is fetched (docs/protocol.md, "Crews").

Pure functions. What needs files, norms, scales and the merged numbers themselves, is the gate's
(training/crew_gate.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from paris_p2p.crew_records import MAX_LATE, CrewRound, CrewSpec, MergedUpdate, UpdateRecord
from paris_p2p.envelope import Envelope
from paris_p2p.records import BlobRef, CardRecord
from paris_p2p.rules.rounds import (
    REASONS_FOR_UPDATES,
    counted_of,
    lateness,
    refuse_update,
    too_many_steps,
)
from paris_p2p.spec import ROUTER, RunSpec

_SECONDS_SLACK = 1e-6  # of a round's length, computed elsewhere


@dataclass(frozen=True)
class OpenedRound:
    """A round with the verified records of the updates that it merged, in its order."""

    made: CrewRound
    updates: tuple[Envelope[UpdateRecord], ...]


@dataclass(frozen=True)
class CrewRules:
    """What a slot's rounds are judged by: the run's numbers, whose records count, and the slot's cards that
    are known here, by id.
    """

    crew: CrewSpec
    batch_clips: int
    counts: Callable[[Envelope[Any]], bool] = lambda _: True
    known: Mapping[str, Envelope[CardRecord]] = field(default_factory=dict)


@dataclass(frozen=True)
class StateBefore:
    """The state that a round merges into, as the card and the rounds before it tell."""

    card: str  # its card's id; empty where that card was never attested
    older: tuple[str, ...]  # the cards before it that updates may start from, the newest first
    steps: int
    clips: int
    merged: str  # its hash; empty for the checkpoint of one lead alone
    weights: BlobRef  # of the full card that it stands on
    counted: Mapping[str, int] | None  # None: its lead's resume state says it, not a round


def lineage_after(card_id: str, last: CrewRound | None) -> tuple[str, ...]:
    """Returns the `lineage` of a round that merges into a card's state; `last` is the newest of the card's
    rounds, None for the checkpoint of one lead alone, before which no update can have started.
    """
    return (card_id, *(last.lineage[:MAX_LATE] if last else ()))


def new_rounds(card: CardRecord, parent: CardRecord | None) -> tuple[BlobRef, ...]:
    """Returns the rounds of a card that its parent, the slot's tip, does not have."""
    return card.rounds[len(parent.rounds) :] if parent is not None and parent.is_light else card.rounds


def refuse_names(card: CardRecord, parent: Envelope[CardRecord] | None, crew: CrewSpec | None) -> str | None:
    """Returns why a card that trains on from `parent` cannot name these files and rounds; None when it can.

    A light card names the files of the full card that its rounds stand on, and all rounds since.
    """
    if not card.rounds:
        return None
    if crew is None:
        return "the run has no crews"
    if parent is None:
        return "a slot's first card is one lead's alone"
    before = parent.record
    if before.is_light and card.rounds[: len(before.rounds)] != before.rounds:
        return "its rounds do not begin with its parent's"
    if not new_rounds(card, before):
        return "it has no round more than its parent"
    if len(set(card.rounds)) != len(card.rounds):
        return "it names a round twice"
    if not card.is_light:
        return None
    if card.full != (before.full if before.is_light else parent.id):
        return "it stands on another full card than its parent"
    if (card.weights, card.resume) != (before.weights, before.resume):
        return "its files are not those of the full card that it stands on"
    return None


def refuse_round_length(card: CardRecord, checkpoint_s: float) -> str | None:
    """Returns why a card cannot give the next round so long; None when it can."""
    least_s, most_s = checkpoint_s / 3, 2 * checkpoint_s
    slack_s = _SECONDS_SLACK * checkpoint_s
    if card.round_s == 0 or least_s - slack_s <= card.round_s <= most_s + slack_s:
        return None
    return f"its next round takes {card.round_s:.4g} s, {least_s:.4g} to {most_s:.4g} s are allowed"


def state_before(parent: Envelope[CardRecord], last: OpenedRound | None) -> StateBefore:
    """Returns the state of a card, `last` being the newest of its rounds, None where it has none."""
    record, made = parent.record, last.made if last else None
    return StateBefore(
        card=parent.id,
        older=lineage_after(parent.id, made)[1:],
        steps=record.steps,
        clips=record.clips,
        merged=record.merged,
        weights=record.weights,
        counted={one.peer: one.next for one in made.counted} if made else None,
    )


def state_after(before: StateBefore, one: OpenedRound) -> StateBefore:
    """Returns the state after a round that was accepted, whose own card was never attested."""
    return replace(
        before,
        card="",
        older=one.made.lineage[:MAX_LATE],
        steps=one.made.steps,
        clips=one.made.clips,
        merged=one.made.merged,
        counted={each.peer: each.next for each in one.made.counted},
    )


def refuse_rounds(
    card: Envelope[CardRecord], before: StateBefore, rounds: Sequence[OpenedRound], rules: CrewRules
) -> str | None:
    """Returns what rule the card's new rounds break, which merge one after the other into the state before;
    None when they break none.
    """
    state, record = before, card.record
    for number, one in enumerate(rounds, 1):
        if (why := _refuse_round(card, state, one, rules)) is not None:
            return f"round {number} of {len(rounds)}: {why}"
        is_last = number == len(rounds)
        if one.made.full != (is_last and not record.is_light):
            return f"round {number} of {len(rounds)}: only the last one of a full card is rounded"
        state = state_after(state, one)
    if (record.steps, record.clips, record.merged) != (state.steps, state.clips, state.merged):
        return (
            f"the card says {record.steps} steps, {record.clips} clips and state {record.merged[:16]}, "
            f"its last round {state.steps}, {state.clips} and {state.merged[:16]}"
        )
    return None


def _refuse_round(
    card: Envelope[CardRecord], before: StateBefore, one: OpenedRound, rules: CrewRules
) -> str | None:
    made = one.made
    if (made.steps_before, made.clips_before) != (before.steps, before.clips):
        return f"it begins at {made.steps_before} steps, the state before it has {before.steps}"
    if made.merged_before != before.merged:
        return f"it begins with state {made.merged_before[:16]}, the one before it is {before.merged[:16]}"
    if (why := _refuse_lineage(card, before, one, rules)) is not None:
        return why
    signers = [update.signer for update in one.updates]
    if any(first >= second for first, second in pairwise(signers)):
        return "its updates do not ascend by signer"
    if len(signers) > rules.crew.peers:
        return f"it merges {len(signers)} updates, {rules.crew.peers} peers make a crew"
    for entry, update in zip(made.updates, one.updates, strict=True):
        if (why := _refuse_merged(entry, update, before, made, rules)) is not None:
            return f"the update of {update.signer[-8:]}: {why}"
    steps, clips = (sum(getattr(one.record, what) for one in one.updates) for what in ("steps", "clips"))
    if (made.steps, made.clips) != (before.steps + steps, before.clips + clips):
        return f"it goes to {made.steps} steps, its updates bring {steps} to {before.steps}"
    return _refuse_counted(before, one) or _refuse_left_out(one)


def _refuse_lineage(
    card: Envelope[CardRecord], before: StateBefore, one: OpenedRound, rules: CrewRules
) -> str | None:
    """Tells whether the round names other cards than those that lead to the state before it.

    The card of a state that was never attested may be unknown here: then nobody but the card's own maker can
    have started from it.
    """
    head, *older = one.made.lineage
    if tuple(older) != before.older[:MAX_LATE] or head in older:
        return "its lineage is another than the rounds before it have"
    if head == before.card or (head in rules.known and _has_state(rules.known[head].record, before)):
        return None
    if head in rules.known or before.card:
        return "the card that it merges into has another state"
    if any(update.record.base == head and update.signer != card.signer for update in one.updates):
        return "an update starts from a card that is not known here"
    return None


def _has_state(known: CardRecord, before: StateBefore) -> bool:
    """Tells whether a card has the state: the same checkpoint was signed more than once."""
    if (known.steps, known.clips, known.merged) != (before.steps, before.clips, before.merged):
        return False
    return bool(before.merged) or known.weights == before.weights


def _refuse_merged(
    entry: MergedUpdate,
    update: Envelope[UpdateRecord],
    before: StateBefore,
    made: CrewRound,
    rules: CrewRules,
) -> str | None:
    record = update.record
    if record.slot != made.slot:
        return f"it is of {record.slot}"
    if not rules.counts(update):
        return "its signer may not train"
    counted = counted_of(before.counted or {}, update.signer)
    reason = refuse_update(record, made.lineage, counted, rules.batch_clips, rules.crew)
    if reason is not None:
        return REASONS_FOR_UPDATES[reason]
    if entry.late != lateness(record.base, made.lineage):
        return f"it is said to be {entry.late} rounds late"
    base = rules.known.get(record.base)
    if base is not None and too_many_steps(record, base.record.issued_at):
        return REASONS_FOR_UPDATES["rate"]
    return None


def _refuse_counted(before: StateBefore, one: OpenedRound) -> str | None:
    """Tells whether the round counts other clips than its updates bring.

    After one lead's checkpoint its resume state says what was counted before, which the gate compares.
    """
    after = {each.peer: each.next for each in one.made.counted}
    if [each.peer for each in one.made.counted] != sorted(after):
        return "the peers that it counts do not ascend"
    brought = {each.signer: each.record.first_clip + each.record.clips for each in one.updates}
    expected = dict(after if before.counted is None else before.counted) | brought
    return None if after == expected else "it counts other clips than its updates bring"


def _refuse_left_out(one: OpenedRound) -> str | None:
    names = [each.update for each in one.made.refused]
    if len(set(names)) != len(names) or {each.id for each in one.updates} & set(names):
        return "it refuses an update twice, or one that it merged"
    odd = sorted({each.reason for each in one.made.refused} - set(REASONS_FOR_UPDATES))
    return f"it refuses an update for {odd[0]!r}, which is no reason" if odd else None


def crew_batch_clips(spec: RunSpec, slot: str) -> int:
    """Returns the clips of one optimizer step of a slot."""
    return spec.training.router_batch_clips if slot == ROUTER else spec.training.batch_clips
