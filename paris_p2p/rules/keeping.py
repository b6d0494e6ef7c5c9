"""A pure function of a peer's records says which checkpoints of a slot it keeps on its disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from paris_p2p.crew_records import UpdateRecord
from paris_p2p.envelope import Envelope
from paris_p2p.records import BlobRef, CardRecord
from paris_p2p.rules.tips import Tip, tip_id

WAITING_KEPT = 2  # of each maker: its newest, and the one an attestor may be at


def card_blobs(card: CardRecord, updates: Iterable[BlobRef]) -> tuple[BlobRef, ...]:
    """Returns the blobs that a card consists of, each once: its files, its rounds, and the `updates` that
    these merged.
    """
    return tuple(dict.fromkeys((card.weights, card.resume, *card.rounds, *updates)))


def updates_copied(
    updates: Sequence[Envelope[UpdateRecord]], welcome: Collection[str], most: int, limit_bytes: int
) -> list[Envelope[UpdateRecord]]:
    """Returns the updates of a slot that a node copies which others find there: of `welcome` peers the newest
    of each, at most `most`, none over `limit_bytes`.

    `updates` in the order they came: the first stay, so that later ones do not stop a copy on its way.
    """
    newest: dict[str, Envelope[UpdateRecord]] = {}
    for one in updates:
        if one.signer in welcome and one.record.blob.size_bytes <= limit_bytes:
            known = newest.get(one.signer)
            if known is None or (one.record.seq, one.id) > (known.record.seq, known.id):
                newest[one.signer] = one
    return list(newest.values())[:most]


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
