"""Which updates a lead left out that it should have merged, as far as an attestor can tell: pure functions.

An attestor knows what it holds itself, and since when. A lead may have had an update later, so it gets time:
half a round for what others hand out, one and a half for the attestor's own: nobody else vouches for its
upload, which takes up to half a round for each of those who fetch it as soon as they hear of it. So one
update that is dropped may go unseen until the next round or two; that a peer's work is dropped again and
again does not. A new lead's first card is asked for nothing: the slot has waited long enough, so it merges at
once what it has, and it was not the one who had to fetch the others' before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paris_p2p.crew_records import MAX_REFUSED
from paris_p2p.envelope import Envelope
from paris_p2p.records import CardRecord
from paris_p2p.rules.heard import CLOCK_SLACK_S
from paris_p2p.rules.round_checks import CrewRules, OpenedRound, StateBefore, state_after
from paris_p2p.rules.rounds import (
    HeardUpdate,
    counted_of,
    grace_s,
    lateness,
    refuse_update,
)
from paris_p2p.rules.update_sizes import UPLOAD_SHARE

# an attestor looks into these with the files at hand; of the others the records tell
LOOKED_INTO = ("format", "norm", "copy", "loss", "data")
FETCH_AT_ONCE = 3  # the lead, the owner's node, a bootstrap node
# rounds, from when an attestor holds an update to when it asks for it
TIME_OF_OTHERS, TIME_OF_OWN = 0.5, FETCH_AT_ONCE * UPLOAD_SHARE


@dataclass(frozen=True)
class Disputed:
    """An update that a lead left out though its record fits; `reason` is the lead's, of LOOKED_INTO, or
    empty where it gave none that can hold.
    """

    update: HeardUpdate
    late: int  # rounds, in the round that should have merged it
    reason: str


def due_before_s(card: CardRecord, round_s: float, *, own: bool) -> float:
    """Returns the Unix time before which an attestor must have held an update to ask for it in a card.

    `round_s` is the length of the round, as its parent gave it.
    """
    rounds = TIME_OF_OWN if own else TIME_OF_OTHERS
    return card.issued_at - grace_s(round_s) - CLOCK_SLACK_S - rounds * round_s


def disputed_updates(
    card: Envelope[CardRecord],
    before: StateBefore,
    rounds: Sequence[OpenedRound],
    held: Sequence[HeardUpdate],
    rules: CrewRules,
    *,
    me: str,
    round_s: float,
) -> tuple[Disputed, ...]:
    """Returns the updates that the last of a card's rounds should have merged, by what this attestor `me`
    holds; `heard_s` is since when it has record and file.

    `rounds` are the card's new ones, accepted by `refuse_rounds`; at most `crew.peers` are returned.
    """
    parent = rules.known.get(before.card)
    if parent is not None and parent.record.epoch != card.record.epoch:
        return ()
    state = before
    for one in rounds[:-1]:
        state = state_after(state, one)
    last = rounds[-1]
    reasons = {each.update: each.reason for one in rounds for each in one.made.refused}
    merged = {update.id for one in rounds for update in one.updates}
    taken = {update.signer for update in last.updates}
    found = []
    for update in sorted(held, key=lambda one: (one.heard_s, one.id)):
        late = lateness(update.record.base, last.made.lineage)
        if late is None or update.id in merged or update.signer in taken:
            continue
        if update.heard_s >= due_before_s(card.record, round_s, own=update.signer == me):
            continue
        if not _fits(update, state, last, rules) or _had_no_place(update, state, last, rules):
            continue
        is_known = update.signer in (state.counted or {})
        if update.id not in reasons and len(last.made.refused) >= MAX_REFUSED and not is_known:
            continue  # a round has no room to name more, and names those first who contributed
        reason = reasons.get(update.id, "")
        found.append(Disputed(update, late, reason if reason in LOOKED_INTO else ""))
    return tuple(found[: rules.crew.peers])


def _fits(update: HeardUpdate, before: StateBefore, last: OpenedRound, rules: CrewRules) -> bool:
    counted = counted_of(before.counted or {}, update.signer)
    args = (update.record, last.made.lineage, counted, rules.batch_clips, rules.crew)
    return refuse_update(*args) is None


def _had_no_place(update: HeardUpdate, before: StateBefore, last: OpenedRound, rules: CrewRules) -> bool:
    """Tells whether a full round rightly preferred others: those who contributed before come first, and of
    equals those whom the lead, not this attestor, heard first.
    """
    if len(last.updates) < rules.crew.peers:
        return False
    contributed = before.counted or {}
    return update.signer not in contributed or all(one.signer in contributed for one in last.updates)
