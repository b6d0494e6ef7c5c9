"""Whether a dev-swarm came through: pure functions of what was done, seen, and found on the disks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from paris_p2p.dev_swarm.chronicle import STEADY, Chronicle, TipSeen
from paris_p2p.dev_swarm.hand_overs import HandOver, Lost, Struck, hand_overs, losses, spread_of
from paris_p2p.dev_swarm.papers import Papers

OWNER = "owner"  # the node that nothing is done to


@dataclass(frozen=True)
class MustHold:
    """Says whether something held that must, and what was found."""

    name: str
    holds: bool
    found: str


@dataclass(frozen=True)
class Advance:
    """Says where a slot's tip stood when the troubles began, and when they were over."""

    slot: str
    before: TipSeen | None
    after: TipSeen | None

    @property
    def steps(self) -> int:
        return (self.after.steps if self.after else 0) - (self.before.steps if self.before else 0)

    def in_words(self) -> str:
        first = f"step {self.before.steps:,} (seq {self.before.seq})" if self.before else "nothing"
        last = f"step {self.after.steps:,} (seq {self.after.seq})" if self.after else "nothing"
        return f"{self.slot} from {first} to {last}"


@dataclass
class Witnessed:
    """Holds all that the outcome rests on."""

    slots: tuple[str, ...]
    peers: tuple[str, ...]
    quorum: int
    chronicle: Chronicle
    papers: Papers
    struck: Sequence[Struck]
    began_s: float  # of the troubles
    quiet_s: float  # how long nothing was broken just before
    ended_s: float
    over: Mapping[str, str] = field(default_factory=dict)  # slot that nobody is to train any more -> why
    stuck: Mapping[str, str] = field(default_factory=dict)  # peer -> in words
    stores: Mapping[str, str] = field(default_factory=dict)  # node -> what is damaged; empty: nothing
    stores_words: str = ""
    left_behind: Sequence[str] = ()
    faults: Sequence[str] = ()  # tracebacks in logs


@dataclass(frozen=True)
class Outcome:
    """Holds what must hold, and the figures beside it."""

    held: tuple[MustHold, ...]
    advances: tuple[Advance, ...]
    hand_overs: tuple[HandOver, ...]
    losses: tuple[Lost, ...]

    @property
    def passed(self) -> bool:
        return all(one.holds for one in self.held)


def outcome_of(seen: Witnessed) -> Outcome:
    """Returns whether the swarm came through."""
    advances = tuple(_advance(seen, slot) for slot in seen.slots)
    sightings = seen.chronicle.copy()
    lineages = {slot: seen.papers.lineage(slot) for slot in seen.slots}
    return Outcome(
        held=(
            _advanced(advances, seen.over),
            *(_as_far_as_quiet(seen, one) for one in advances if seen.quiet_s),
            _is_whole(seen),
            _one_line(seen),
            _fenced(seen),
            _nobody_stuck(seen),
            MustHold("nothing outlives its killed node", not seen.left_behind, _some(seen.left_behind)),
            MustHold("no node shows a fault of its own", not seen.faults, _some(seen.faults)),
        ),
        advances=advances,
        hand_overs=tuple(hand_overs(seen.struck, sightings)),
        losses=tuple(losses(seen.struck, sightings, lineages)),
    )


def caught_up(chronicle: Chronicle, peer: str, goals: Mapping[str, TipSeen], since_s: float) -> str:
    """Says why a peer has not caught up since a moment; empty where it has: it answers, takes part, and knows
    of every slot a tip no older than the goal's.
    """
    at_s, status = chronicle.last.get(peer, (-1.0, {}))
    if at_s < since_s:
        return "it does not answer"
    if status["phase"] not in STEADY:
        return f"it is {status['phase']}: {status['why']}"
    behind = [
        slot
        for slot, goal in goals.items()
        if (tip := chronicle.tip(peer, slot)) is None or tip.place < goal.place
    ]
    return f"it lacks the tip of {', '.join(behind)}" if behind else ""


def idle_slots(
    chronicle: Chronicle, slots: Iterable[str], since_s: float, over: Collection[str] = ()
) -> list[str]:
    """Returns in words which slots got no new tip since a moment, of those that are not over."""
    found = []
    for slot in slots:
        before, now = chronicle.tip(OWNER, slot, since_s), chronicle.tip(OWNER, slot)
        if slot not in over and (now is None or now == before):
            found.append(f"{slot}: no new tip after the troubles")
    return found


def figures(outcome: Outcome) -> list[str]:
    """Returns the figures beside the verdict, as lines."""
    lost = [one.work_s for one in outcome.losses]
    steps = sum(one.steps for one in outcome.losses)
    after: dict[str, list[float]] = {}
    for one in outcome.hand_overs:
        after.setdefault(one.kind, []).append(one.after_s)
    by_kind = [f"  after a {kind}: {spread_of(times).in_words()}" for kind, times in sorted(after.items())]
    return [
        *(f"tip: {one.in_words()}" for one in outcome.advances),
        f"hand-overs: {spread_of(one.after_s for one in outcome.hand_overs).in_words()}",
        *by_kind,
        f"work lost with a killed lead: {spread_of(lost).in_words()}; {steps:,} steps in all",
    ]


def _advance(seen: Witnessed, slot: str) -> Advance:
    return Advance(
        slot,
        seen.chronicle.tip(OWNER, slot, seen.began_s),
        seen.chronicle.tip(OWNER, slot, seen.ended_s),
    )


def _advanced(advances: Iterable[Advance], over: Mapping[str, str]) -> MustHold:
    """Says whether every slot's tip went on but for those that were over, which alone show nothing."""
    found = list(advances)
    still = [one for one in found if one.steps <= 0 and one.slot not in over]
    holds = any(one.steps > 0 for one in found) and not still
    words = [one.in_words() + _why_over(over, one.slot) for one in still or found]
    return MustHold("every slot's tip advances", holds, "; ".join(words))


def _why_over(over: Mapping[str, str], slot: str) -> str:
    return f", where it {over[slot]}" if slot in over else ""


def _as_far_as_quiet(seen: Witnessed, advance: Advance) -> MustHold:
    """Says whether a slot came as far as it did undisturbed, by its rate then, in half the time."""
    before = seen.chronicle.tip(OWNER, advance.slot, seen.began_s - seen.quiet_s)
    quiet_steps = (advance.before.steps if advance.before else 0) - (before.steps if before else 0)
    half = quiet_steps / seen.quiet_s * (seen.ended_s - seen.began_s) / 2
    words = (
        f"{advance.steps:,} steps in {seen.ended_s - seen.began_s:.0f} s; quiet, {quiet_steps:,} in "
        f"{seen.quiet_s:.0f} s, which is {half:,.0f} in half the time"
    )
    return MustHold(
        f"{advance.slot} comes as far as a quiet swarm in half the time",
        advance.steps >= half or advance.slot in seen.over,
        words + _why_over(seen.over, advance.slot),
    )


def _is_whole(seen: Witnessed) -> MustHold:
    damaged = [f"{node}: {words}" for node, words in seen.stores.items() if words]
    return MustHold(
        "no store is damaged", bool(seen.stores) and not damaged, _some(damaged, seen.stores_words)
    )


def _one_line(seen: Witnessed) -> MustHold:
    """Says whether each slot has one line of accepted cards: every node's tip stands in it, and none went
    back.
    """
    wrong, total = list(seen.chronicle.went_back), 0
    for slot in seen.slots:
        line = {card.id for card in seen.papers.lineage(slot)}
        total += len(line)
        for node in (OWNER, *seen.peers):
            tip = seen.chronicle.tip(node, slot)
            if tip is not None and tip.card not in line and tip.seq > 0:
                wrong.append(f"{node}'s tip of {slot}, seq {tip.seq}, is not in the slot's line")
    words = f"{total} cards in {len(seen.slots)} lines; every node's tips only went forward"
    return MustHold(
        "one lead per slot: one line of accepted cards", total > 0 and not wrong, _some(wrong, words)
    )


def _fenced(seen: Witnessed) -> MustHold:
    """Says whether nobody accepted a card of a lead that was fenced: in each line epochs never fall and one
    place has one card, and no attestor signed a lower epoch after a higher one.
    """
    papers, wrong = seen.papers, list(seen.papers.broken)
    line: set[str] = set()
    for slot in seen.slots:
        cards = papers.lineage(slot)
        line |= {card.id for card in cards}
        for before, after in pairwise(cards):
            if after.record.epoch < before.record.epoch or after.record.seq != before.record.seq + 1:
                wrong.append(
                    f"{slot} seq {after.record.seq} has epoch {after.record.epoch} after a higher one"
                )
    wrong += _signed_backwards(seen) if seen.quorum == 1 else []
    overtaken = [card for card in papers.attested if card in papers.cards and card not in line]
    unsigned = [card for card in papers.cards if card not in papers.attested]
    words = (
        f"attestors signed {len(papers.choices)} places, each once; {len(overtaken)} attested cards were "
        f"overtaken by a higher epoch, {len(unsigned)} that lie on a disk were signed by nobody"
    )
    return MustHold(
        "no card of a fenced lead is accepted", bool(papers.signed) and not wrong, _some(wrong, words)
    )


def _signed_backwards(seen: Witnessed) -> list[str]:
    """Returns in words where an attestor, to whom each card that it signs is a tip, signed a lower epoch or
    place after a higher one.
    """
    wrong = []
    highest: dict[tuple[str, str], tuple[int, int]] = {}
    for one in sorted(seen.papers.signed, key=lambda signed: signed.record.issued_at):
        record = one.record
        place, who = (record.epoch, record.seq), (one.signer, record.slot)
        if place < highest.get(who, (0, 0)):
            wrong.append(f"{one.signer[-8:]} signed {record.slot} {place} after {highest[who]}")
        highest[who] = max(place, highest.get(who, (0, 0)))
    return wrong


def _nobody_stuck(seen: Witnessed) -> MustHold:
    idle = idle_slots(seen.chronicle, seen.slots, seen.ended_s, seen.over)
    words = [*(f"{peer}: {why}" for peer, why in seen.stuck.items()), *idle]
    return MustHold(
        "nobody is stuck", not words, _some(words, f"{len(seen.peers)} peers and every slot went on")
    )


def _some(words: Sequence[str], otherwise: str = "none") -> str:
    shown = "; ".join(words[:6])
    return f"{shown}; and {len(words) - 6} more" if len(words) > 6 else shown or otherwise
