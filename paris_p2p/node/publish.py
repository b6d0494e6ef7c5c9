"""A checkpoint goes out: blobs, card, news.

Publishing is card-last: both blobs are in the store before the card is signed, and the card is in the ledger
before anyone hears of it. A crash at any moment leaves the old tip or the new one.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paris_p2p.envelope import Envelope, open_envelope
from paris_p2p.errors import DiskFullError, RecordError
from paris_p2p.node.run_node import RunNode
from paris_p2p.records import BlobRef, CardRecord
from paris_p2p.rules.rates import lowered_again
from paris_p2p.rules.tips import Tip

# an older one would train on with the full rate, and refuse a card that goes back for its steps
LOWERED_READER = 3


@dataclass(frozen=True)
class NewCheckpoint:
    """Two files and what they are, before they have a name."""

    weights_path: Path
    resume_path: Path
    clips: int
    steps: int
    train_loss: float
    lowered: int = 0  # how often the learning rate was lowered (rules/rates.py)


async def sign_checkpoint(node: RunNode, slot: str, epoch: int, new: NewCheckpoint) -> Envelope[CardRecord]:
    """Move the files into the store and sign them as the child of the slot's tip; `tell_card` lets others
    know.

    DiskFullError when the store's cap leaves no room for them, and nothing else there may go.
    """
    tip = node.board.tip(slot)
    held = set[str]()
    node.hold(f"publish/{slot}", held)  # until the next one: they are on no card yet
    weights = await asyncio.to_thread(_take_in, node, new.weights_path)
    held.add(weights.id)
    node.keeping.note(held)
    resume = await asyncio.to_thread(_take_in, node, new.resume_path)
    held.add(resume.id)
    node.keeping.note(held)
    card = CardRecord(
        **_place(node, slot, tip),
        oldest_reader=LOWERED_READER if new.lowered else 1,
        epoch=epoch,
        weights=weights,
        resume=resume,
        clips=new.clips,
        steps=new.steps,
        train_loss=new.train_loss,
        lowered=new.lowered,
    )
    return _sign(node, card)


def sign_again(node: RunNode, card: CardRecord) -> Envelope[CardRecord]:
    """Sign the newest checkpoint once more, as the child of what is the slot's tip now."""
    return _sign(node, card.model_copy(update=_place(node, card.slot, node.board.tip(card.slot))))


def sign_going_back(node: RunNode, old: CardRecord, epoch: int) -> Envelope[CardRecord]:
    """Sign an older checkpoint once more as the child of the slot's tip, to be trained on with the next
    lower rate.
    """
    tip = node.board.tip(old.slot)
    lowered = lowered_again(tip.card.record.lowered if tip else 0)
    return sign_again(
        node, old.model_copy(update={"epoch": epoch, "lowered": lowered, "oldest_reader": LOWERED_READER})
    )


async def tell_card(node: RunNode, envelope: Envelope[CardRecord]) -> None:
    """Let the others know of a card of ours; SwarmError when they cannot be told now, and it may be told
    again.
    """
    node.keep_good(envelope.record)
    node.keep(envelope)
    await node.announce_holding(envelope.id)
    await node.tell(envelope)


async def tell_own_cards_again(node: RunNode) -> None:
    """Cards this peer signed before it was killed, which perhaps nobody heard of: the work in them is not
    lost.
    """
    for slot in node.spec.slots:
        data, tip = node.ledger.get(f"own-card/{slot}"), node.board.tip(slot)
        if data is None:
            continue
        try:
            envelope = open_envelope(data, run=node.run, kinds=("card",))
        except RecordError:
            continue  # damaged: the swarm's records decide
        card = envelope.record
        here = all(node.host.store.has(ref.id) for ref in (card.weights, card.resume))
        if here and card.parent == (tip.card.id if tip else "") and card.expires_at > time.time():
            await tell_card(node, envelope)


def _place(node: RunNode, slot: str, tip: Tip | None) -> dict[str, Any]:
    """A card's header and its place after the tip."""
    head = node.header("card", slot)
    return {**head, "seq": tip.card.record.seq + 1 if tip else 1, "parent": tip.card.id if tip else ""}


def _sign(node: RunNode, card: CardRecord) -> Envelope[CardRecord]:
    envelope = node.sign(card)
    node.ledger.put(f"own-card/{card.slot}", envelope.data)
    return envelope


def _take_in(node: RunNode, path: Path) -> BlobRef:
    """In a thread: it hashes gigabytes. What nobody needs makes room, as it does for what is fetched."""
    try:
        return node.host.store.add_file(path, move=True)
    except DiskFullError:
        if not node.host.make_room(path.stat().st_size):
            raise
        return node.host.store.add_file(path, move=True)
