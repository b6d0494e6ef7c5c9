"""What a board tells a peer that asks directly: the envelopes it would store under a DHT key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paris_p2p.envelope import Envelope
from paris_p2p.node.crowd import SlotRecords, card_worths, waiting_cards
from paris_p2p.node.hearing import Hearing
from paris_p2p.node.owners_word import OwnersWord
from paris_p2p.node.tip_life import older_best
from paris_p2p.owner_records import MAX_NOTICES
from paris_p2p.records import CardRecord
from paris_p2p.rules.chain import Chain
from paris_p2p.rules.heard import Heard
from paris_p2p.rules.tips import Tip
from paris_p2p.spec import TimingSpec

MAX_NOTICES_TOLD = 512  # in one answer; who lacks more asks on
_MAX_CARDS = 8  # that wait
_MAX_ATTESTATIONS = 64  # of them
MAX_REFUSALS_TOLD = 32


def records_under(
    run: str, slots: Mapping[str, SlotRecords], word: OwnersWord, hearing: Hearing, key: str
) -> list[bytes]:
    """Returns what is known for a DHT key of the run; it may be called from a thread."""
    _, _, named, shelf, name = [*key.split("/"), "", "", "", "", ""][:5]
    slot = slots.get(name)
    if named != run:
        return []
    if shelf == "notices":
        return [one.data for one in notices_from(word.chain, name)]
    if slot is None:
        return []
    if shelf == "claims":
        return [claim.data for claim in list(slot.claims.values())]
    if shelf == "tips":
        waiting = _worthiest(slot, word.spec.timing, hearing.heard(name))
        return [one.data for one in _tips(slot, waiting)]
    if shelf == "crews":
        return [one.data for one in list(slot.crew.workers.values())]
    if shelf == "updates":
        return [one.data for one in list(slot.crew.updates.values())]
    if shelf == "refusals":
        return [one.data for one in list(slot.refusals.values())[-MAX_REFUSALS_TOLD:]]
    return []


def notices_from(chain: Chain, first: str) -> list[Envelope[Any]]:
    """Returns the notices from a number on, and both that contradict one another, if any do."""
    if not (first.isascii() and first.isdigit() and len(first) <= len(str(MAX_NOTICES))):
        return []
    known = chain.notices[max(0, int(first) - 1) :]
    return [*(chain.fork or ()), *known][:MAX_NOTICES_TOLD]


def tip_envelopes(tip: Tip | None) -> list[Envelope[Any]]:
    """Returns a tip's card and what attests it."""
    return [] if tip is None else [tip.card, *tip.attestations]


def _tips(slot: SlotRecords, waiting: list[Envelope[CardRecord]]) -> list[Envelope[Any]]:
    ids = {card.id for card in waiting}
    attested = [one for one in list(slot.attestations.values()) if one.record.card in ids]
    return [*tip_envelopes(slot.tip), *older_best(slot), *waiting, *attested[:_MAX_ATTESTATIONS]]


def _worthiest(slot: SlotRecords, timing: TimingSpec, heard: Heard) -> list[Envelope[CardRecord]]:
    """Returns waiting cards, those that matter most last: strangers' cards cannot crowd them out of an
    answer.
    """
    waiting = waiting_cards(slot)
    latest = max((slot.seen_at_s.get(card.id, 0.0) for card in waiting), default=0.0)
    worths = card_worths(slot, latest, timing, heard)
    return sorted(waiting, key=lambda card: worths.get(card.id, 0))[-_MAX_CARDS:]
