"""The newest card that this peer signed in a slot lies in its ledger, with the cards that its training went
through (rules/own_card.py).
"""

from __future__ import annotations

from paris_p2p.errors import RecordError
from paris_p2p.node.run_node import RunNode
from paris_p2p.rules.own_card import OwnCard, OwnView
from paris_p2p.rules.placement import attest_patience_s
from paris_p2p.store.ledger import Ledger


def put_own_card(ledger: Ledger, own: OwnCard) -> None:
    """Keeps a card in place of the one before it.

    Cards that a killed process noted here without the card itself do no harm: the card that is there then is
    one of them, or their parent is its own.
    """
    slot = own.card.record.slot
    ledger.put(f"own-before/{slot}", b" ".join(sorted(one.encode() for one in own.before)))
    ledger.put(f"own-card/{slot}", own.card.data)


def own_card(node: RunNode, slot: str) -> OwnCard | None:
    """Returns the newest card of this peer in a slot; None where there is none, or it is damaged: then the
    swarm's records decide.
    """
    data = node.ledger.get(f"own-card/{slot}")
    if data is None:
        return None
    try:
        card = node.swarm.open(data, ("card",))
    except RecordError:
        return None
    before = (node.ledger.get(f"own-before/{slot}") or b"").decode(errors="replace").split()
    return OwnCard(card, frozenset(before))


def forget_own_card(node: RunNode, slot: str) -> None:
    """Forgets the newest card of this peer in a slot: it is told no more, and nothing goes on from it."""
    node.ledger.delete(f"own-card/{slot}")


def own_view(node: RunNode, own: OwnCard) -> OwnView:
    """Returns how the card's slot looks from here."""
    record = own.card.record
    return OwnView(
        tip=node.board.tip(record.slot),
        has_blobs=node.rounds.is_whole(record),
        counts=node.state.counts(own.card) and record.notices <= node.state.number,
        waiting=[one for one in node.board.pending(record.slot) if node.serves(one.record.weights.id)],
        patience_s=attest_patience_s(node.spec.timing.checkpoint_s),
    )
