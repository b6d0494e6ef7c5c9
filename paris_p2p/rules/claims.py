"""Who leads a slot: a pure function of verified claims, the tip, what was heard, and the clock
(docs/protocol.md, "Order").

A claim is advice that keeps honest peers from working twice; the fence is the attestation (tips.py). What
holds: the maker of the tip, while it renews the claim it made the tip under and goes on making tips, cannot
be displaced by any stranger's claim; a lead that lapsed is a newcomer again; a claim counts from when it was
heard; and who holds claims without an attested card comes after all who do not. Where claims bring no tip,
twice as many peers may work side by side with each patience (heard.py): however many keys lie, an honest peer
gets its turn, and readers that heard other things come to accept its card. A liar cannot make anybody sign
its cards out of turn.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from blake3 import blake3

from paris_p2p.envelope import Envelope
from paris_p2p.identity import peer_id_to_bytes
from paris_p2p.records import CardRecord, ClaimRecord
from paris_p2p.rules.heard import CLOCK_SLACK_S, Heard
from paris_p2p.rules.holding import renew_in_s
from paris_p2p.rules.tips import MAX_EPOCHS_AHEAD, Tip, may_follow
from paris_p2p.spec import TimingSpec

EPOCH_GAP = 8  # used-up epochs in a row that a peer may not have heard of
_ROUNDING_S = 1e-3  # expiry = issue + length does not come back exactly in floating point

NOTHING_HEARD = Heard()
Rank = tuple[bool, int, float, bytes]

ClaimAction = Literal["claim", "settle", "train", "hold", "yield", "release", "standby"]


@dataclass(frozen=True)
class ClaimView:
    """One slot as a peer sees it, and whether it wants to work there."""

    slot: str
    # one of each signer, its highest that counts, as the board keeps them: none is below the floor
    claims: tuple[Envelope[ClaimRecord], ...]
    tip: Tip | None
    timing: TimingSpec
    wanted: bool = True
    used: frozenset[int] = frozenset()  # epochs_used: a new claim goes above them
    heard: Heard = NOTHING_HEARD
    floor: int = 0  # the lowest epoch of a claim that counts, since the owner took a card back


@dataclass(frozen=True)
class Decision:
    """What to do about a slot, under which epoch, and why in a person's words.

    claim: sign a new claim. settle: wait. train: go on. hold: go on, and renew now. yield: stop, another has
    it, and release. release: stop by own will. standby: nothing.
    """

    action: ClaimAction
    slot: str
    epoch: int
    reason: str


def leads_of(
    claims: Iterable[Envelope[ClaimRecord]],
    tip: Tip | None,
    now_s: float,
    timing: TimingSpec,
    heard: Heard = NOTHING_HEARD,
    floor: int = 0,
) -> tuple[Envelope[ClaimRecord], ...]:
    """Returns the claims that hold the slot, the first one first: one, or several where claims have long
    brought no tip.

    The incumbent comes first: the tip's signer under the very claim it made the tip with. Then comes the
    signer that wasted least, then the one that was first (`Heard.claimed_s`), then the hash of epoch and peer
    id decides.
    """
    live = [claim for claim in claims if is_live(claim, tip, now_s, timing, floor)]
    return tuple(
        sorted(live, key=lambda claim: _rank(claim, tip, now_s, timing, heard))[: heard.places(now_s)]
    )


def lead_of(
    claims: Iterable[Envelope[ClaimRecord]],
    tip: Tip | None,
    now_s: float,
    timing: TimingSpec,
    heard: Heard = NOTHING_HEARD,
    floor: int = 0,
) -> Envelope[ClaimRecord] | None:
    """Returns the first of the claims that hold the slot; None when nobody leads."""
    return next(iter(leads_of(claims, tip, now_s, timing, heard, floor)), None)


def has_room(view: ClaimView, me: str, now_s: float) -> bool:
    """Whether a claim that `me` made now would hold the slot: nobody leads, or claims there have long
    brought no tip.
    """
    timing, heard = view.timing, view.heard
    others = [
        claim
        for claim in view.claims
        if claim.signer != me and is_live(claim, view.tip, now_s, timing, view.floor)
    ]
    places = heard.places(now_s)
    mine = (True, heard.wasted(me, now_s), now_s)
    before = sum(_rank(claim, view.tip, now_s, timing, heard)[:3] <= mine for claim in others)
    return before < places


def may_publish_card(
    leads: Collection[Envelope[ClaimRecord]], view: ClaimView, card: Envelope[CardRecord], now_s: float
) -> bool:
    """Says whether a card's maker is among the view's `leads`, or nobody is and it held the slot in time.

    The caller finds the leads (`leads_of`) once for many cards: among many claims that takes time.
    """
    if card.signer in {lead.signer for lead in leads} or view.heard.is_open(now_s):
        return True
    return not leads and held_when_made(card, view.claims)


def held_when_made(card: Envelope[CardRecord], claims: Iterable[Envelope[ClaimRecord]]) -> bool:
    """Whether the card's maker had a claim when it made the card, by its newest claim: what counts while
    nobody leads.

    It may have been killed before anybody heard of the card, and come back when the claim had lapsed. Once
    another leads, it is a stale lead's card.
    """
    newest = next((claim.record for claim in claims if claim.signer == card.signer), None)
    return newest is not None and newest.claimed_at <= card.record.issued_at <= newest.expires_at


def order(
    claim: Envelope[ClaimRecord], timing: TimingSpec, heard: Heard = NOTHING_HEARD
) -> tuple[float, bytes]:
    """Returns what decides who was first; the hash makes ties fall the same way everywhere."""
    epoch = claim.record.epoch.to_bytes(8, "big")
    tie = blake3(epoch + peer_id_to_bytes(claim.signer)).digest()
    return heard.claimed_s(claim.record, claim.signer, timing), tie


def next_epoch(tip: Tip | None, used: Collection[int] = (), floor: int = 0) -> int:
    """Returns the epoch that a new lead claims: above the tip's, and above every epoch in which an attestor
    is bound to another's card already; no less than `floor`, below which no claim counts.

    Higher than all of them, not the first free one: should such a card become the tip late, the successor's
    is still above it. A used-up epoch far above the others is somebody's invention and does not count, so one
    attestor raises epochs by EPOCH_GAP a card and no more. A lead that died without an attested card used up
    nothing: its claim expires.
    """
    last = tip.card.record.epoch if tip else 0
    epoch = max(last + 1, floor)
    for taken in sorted(used):
        if taken <= epoch + EPOCH_GAP:
            epoch = max(epoch, taken + 1)
    return min(epoch, max(last, floor) + MAX_EPOCHS_AHEAD)


def epoch_to_publish(
    mine: int,
    my_cards: Collection[str],
    tip: Tip | None,
    used: Mapping[int, Collection[str]],
    floor: int = 0,
) -> int:
    """Returns the epoch of a lead's next card: its claim's, unless that place is used up; then a higher one,
    which is claimed first.

    One attested card of its own there is no reason to move: every attestor that comes attests that one first,
    and all goes on after it. With another's, or with two, no card of the place may ever get its quorum.
    """
    taken = used.get(mine, ())
    if not taken or (len(taken) == 1 and set(taken) <= set(my_cards)):
        return mine
    last = tip.card.record.epoch if tip else 0
    return min(max(mine + 1, next_epoch(tip, used, floor)), max(mine, max(last, floor) + MAX_EPOCHS_AHEAD))


def is_live(
    claim: Envelope[ClaimRecord], tip: Tip | None, now_s: float, timing: TimingSpec, floor: int = 0
) -> bool:
    """Whether a claim is not released, not expired for longer than the margin, not from the future, and of an
    epoch its signer could publish in.
    """
    record = claim.record
    return (
        not record.released
        and may_follow(record.epoch, claim.signer, tip, floor)
        and record.claimed_at <= record.issued_at <= now_s + CLOCK_SLACK_S
        and record.expires_at - record.issued_at <= timing.claim_s + _ROUNDING_S
        and now_s < record.expires_at + timing.margin_s
    )


def decide_claim(view: ClaimView, me: str, now_s: float) -> Decision:
    """Returns a volunteer's next move in one slot; the same records give every peer the same answer."""
    mine = next((claim for claim in view.claims if claim.signer == me and not claim.record.released), None)
    if mine is None or mine.record.expires_at <= now_s:
        # a claim that lapsed is a new claim, later than all that came between
        return _decide_newcomer(view, me, now_s)
    epoch = mine.record.epoch
    if not view.wanted:
        return Decision("release", view.slot, epoch, "this peer was asked to stop")
    leads = leads_of(view.claims, view.tip, now_s, view.timing, view.heard, view.floor)
    if me not in {lead.signer for lead in leads}:
        return Decision("yield", view.slot, epoch, _who(next(iter(leads), None), view.tip, me))
    if now_s < mine.record.claimed_at + view.timing.settle_s:
        return Decision(
            "settle", view.slot, epoch, f"waiting {view.timing.settle_s:g} s for claims made before ours"
        )
    if renew_in_s(mine.record.issued_at, now_s, view.timing) == 0:
        return Decision("hold", view.slot, epoch, "a third of the claim is over")
    return Decision("train", view.slot, epoch, "this peer leads")


def _decide_newcomer(view: ClaimView, me: str, now_s: float) -> Decision:
    leads = leads_of(view.claims, view.tip, now_s, view.timing, view.heard, view.floor)
    others = [lead for lead in leads if lead.signer != me]
    # Beside another lead under an epoch of its own: attestors that begin with either's card may sign the
    # other's too.
    epoch = next_epoch(view.tip, view.used | {lead.record.epoch for lead in others}, view.floor)
    if not view.wanted:
        return Decision("standby", view.slot, epoch, "this peer was asked not to work here")
    if not has_room(view, me, now_s):
        return Decision("standby", view.slot, epoch, _who(next(iter(others), None), view.tip, me))
    why = (
        f"beside {others[0].signer[-8:]}, which has long brought no checkpoint"
        if others
        else "nobody leads it"
    )
    return Decision("claim", view.slot, epoch, why)


def _rank(
    claim: Envelope[ClaimRecord], tip: Tip | None, now_s: float, timing: TimingSpec, heard: Heard
) -> Rank:
    wasted = heard.wasted(claim.signer, now_s)
    return not (wasted == 0 and _is_incumbent(claim, tip)), wasted, *order(claim, timing, heard)


def _is_incumbent(claim: Envelope[ClaimRecord], tip: Tip | None) -> bool:
    if tip is None or claim.signer != tip.card.signer or claim.record.claimed_at > tip.card.record.issued_at:
        return False
    return claim.record.epoch == tip.card.record.epoch


def _who(lead: Envelope[ClaimRecord] | None, tip: Tip | None, me: str) -> str:
    if tip is not None and lead is None and tip.card.signer == me:
        return f"it went on under epoch {tip.card.record.epoch}, an earlier claim of this peer"
    if lead is not None:
        return f"{lead.signer[-8:]} holds it under epoch {lead.record.epoch}"
    return (
        f"it went on under epoch {tip.card.record.epoch}, led by {tip.card.signer[-8:]}"
        if tip
        else "our claim is not valid"
    )
