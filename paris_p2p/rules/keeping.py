"""A pure function of a peer's records says which checkpoints of a slot it keeps on its disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from paris_p2p.envelope import Envelope
from paris_p2p.records import CardRecord
from paris_p2p.rules.tips import Tip, tip_id

WAITING_KEPT = 2  # of each maker: its newest, and the one an attestor may be at


def cards_kept(
    cards: Sequence[Envelope[CardRecord]],
    tip: Tip | None,
    attested: Collection[str],
    refused: Collection[str],
) -> set[str]:
    """Returns the ids of the cards whose blobs are still needed: the tip, its lineage's best, what may yet
    follow the tip, and the card before it, where the slot goes back to if the owner takes the tip back.

    `cards` in the order they came; `attested` have at least one attestation that counts, `refused` this peer
    refused. A card whose parent is not the tip was overtaken: nobody attests it any more.
    """
    head = tip_id(tip)
    kept = (
        {head, tip.best} | ({before} if (before := tip.card.record.parent) else set()) if tip else set[str]()
    )
    waiting_of: Counter[str] = Counter()
    for card in reversed(cards):
        if card.record.parent != head or card.id in kept:
            continue
        if card.id in attested:
            kept.add(card.id)
        elif card.id not in refused:
            waiting_of[card.signer] += 1
            if waiting_of[card.signer] <= WAITING_KEPT:
                kept.add(card.id)
    return kept
