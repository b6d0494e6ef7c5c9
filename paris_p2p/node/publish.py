"""A checkpoint goes out: blobs, card, news.

Publishing is card-last: both blobs are in the store before the card is signed, and the card is in the ledger
before anyone hears of it. A crash at any moment leaves the old tip or the new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

from paris_p2p.envelope import Envelope
from paris_p2p.node.own_card_file import put_own_card
from paris_p2p.node.run_node import RunNode
from paris_p2p.records import BlobRef, CardRecord
from paris_p2p.rules.next_card import NewCheckpoint, NewRound
from paris_p2p.rules.own_card import OwnCard
from paris_p2p.rules.rates import lowered_again
from paris_p2p.rules.tips import Tip, tip_id
from paris_p2p.spec import CREW_READER, MEMBERSHIP_READER

# an older one would train on with the full rate, and refuse a card that goes back for its steps
LOWERED_READER = 3


async def sign_checkpoint(
    node: RunNode,
    slot: str,
    epoch: int,
    new: NewCheckpoint,
    moved: dict[Path, BlobRef] | None = None,
    before: Collection[str] = (),
) -> Envelope[CardRecord]:
    """Moves the files into the store, sealed in a private run, and signs them as the child of the slot's tip;
    `tell_card` lets others know.

    `moved` are those that are there already, since signing failed before; it takes note of all that moved.
    `before` are the earlier cards of its training, as an OwnCard has them.
    Raises DiskFullError when the store's cap leaves no room for them, and nothing else there may go.
    """
    tip, moved = node.board.tip(slot), {} if moved is None else moved
    held = {ref.id for path, ref in moved.items() if path in new.paths}
    node.hold(f"publish/{slot}", held)  # until the next one: they are on no card yet

    async def add(path: Path) -> BlobRef:
        if path in moved:
            ref = moved[path] = await node.blobs.under_newest_key(moved[path])
        else:
            ref = moved[path] = await asyncio.to_thread(node.blobs.add, path)
        held.add(ref.id)
        node.keeping.note(held)
        return ref

    fields = {} if new.round is None else await _round_fields(new.round, add)
    if new.weights_path is not None and new.resume_path is not None:
        fields |= {"weights": await add(new.weights_path), "resume": await add(new.resume_path)}
    card = CardRecord(
        **_place(node, slot, tip),
        oldest_reader=_oldest_reader(new.lowered, new.notices, merged=new.round is not None),
        epoch=epoch,
        clips=new.clips,
        steps=new.steps,
        train_loss=new.train_loss,
        lowered=new.lowered,
        notices=new.notices,
        **fields,
    )
    return _sign(node, card, before)


async def _round_fields(new: NewRound, add: Callable[[Path], Awaitable[BlobRef]]) -> dict[str, Any]:
    """Returns what the card of a crew says of its rounds, and of the full card that a light one stands on."""
    rounds = (*new.before, await add(new.path))
    fields: dict[str, Any] = {"rounds": rounds, "merged": new.merged, "round_s": new.round_s}
    if new.blobs is not None:
        fields |= {"full": new.full, "weights": new.blobs[0], "resume": new.blobs[1]}
    return fields


def sign_again(node: RunNode, card: CardRecord, before: Collection[str] = ()) -> Envelope[CardRecord]:
    """Signs the newest checkpoint once more, as the child of what is the slot's tip now; `before` as in
    `sign_checkpoint`.

    A crew's card is not signed so: its newest round was merged into its parent, and follows no other.
    """
    return _sign(node, card.model_copy(update=_place(node, card.slot, node.board.tip(card.slot))), before)


def sign_later(node: RunNode, own: OwnCard) -> Envelope[CardRecord]:
    """Signs a card of this peer once more after an earlier one of the same training, which is the tip now.

    It keeps its date: what counts while nobody leads is that its maker held the slot when it made the card.
    """
    dates = {"issued_at": own.card.record.issued_at, "expires_at": own.card.record.expires_at}
    place = _place(node, own.card.record.slot, node.board.tip(own.card.record.slot))
    return _sign(node, own.card.record.model_copy(update=place | dates), own.before)


def sign_going_back(node: RunNode, old: CardRecord, epoch: int) -> Envelope[CardRecord]:
    """Signs an older checkpoint once more as the child of the slot's tip, to be trained on with the next
    lower rate; a crew's with all of its rounds.
    """
    tip = node.board.tip(old.slot)
    lowered = lowered_again(tip.card.record.lowered if tip else 0)
    reader = _oldest_reader(lowered, old.notices, merged=bool(old.merged))
    return sign_again(
        node, old.model_copy(update={"epoch": epoch, "lowered": lowered, "oldest_reader": reader})
    )


async def tell_card(node: RunNode, envelope: Envelope[CardRecord]) -> None:
    """Lets the others know of a card of this peer. Raises SwarmError when they cannot be told now; it may be
    told again.
    """
    node.keep_good(envelope.record)
    node.keep(envelope)
    await node.announce_holding(envelope.id)
    await node.tell(envelope)


def _oldest_reader(lowered: int, notices: int, *, merged: bool) -> int:
    """Returns the first version that understands a card: older ones do not look at it."""
    if merged:
        return CREW_READER
    return MEMBERSHIP_READER if notices else LOWERED_READER if lowered else 1


def _place(node: RunNode, slot: str, tip: Tip | None) -> dict[str, Any]:
    """Returns a card's header and its place after the tip."""
    head = node.header("card", slot)
    return {**head, "seq": tip.card.record.seq + 1 if tip else 1, "parent": tip_id(tip)}


def _sign(node: RunNode, card: CardRecord, before: Collection[str]) -> Envelope[CardRecord]:
    envelope = node.sign(card)
    put_own_card(node.ledger, OwnCard(envelope, frozenset(before)))
    return envelope
