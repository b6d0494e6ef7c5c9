"""What this peer's board shows of a slot's cards at one moment, as rules/next_check.py asks for it."""

from __future__ import annotations

import time

from paris_p2p.node.run_node import RunNode
from paris_p2p.peer.summary import checkpoint_limits, largest_round_bytes
from paris_p2p.rules.next_check import Leads, SlotCards
from paris_p2p.rules.standing import attests_after_end, standing


def slot_leads(node: RunNode, slot: str) -> Leads:
    """Returns who leads a slot now."""
    return Leads(node.board.view(slot), time.time())


def slot_cards(node: RunNode, slot: str) -> SlotCards:
    """Returns a slot's cards; after the run's end, of those that wait only what may still be attested."""
    board, state, leads = node.board, node.state, slot_leads(node, slot)
    patience_s = leads.view.heard.patience_s
    return SlotCards(
        me=node.peer_id,
        leads=leads,
        pending=tuple(
            card for card in board.pending(slot) if attests_after_end(card.record, state, patience_s)
        ),
        known=board.slots[slot].cards,
        came_s=board.slots[slot].seen_at_s,
        attestors=board.signers_by_card(slot),
        best=board.best(slot),
        largest_bytes=checkpoint_limits(state.spec, slot),
        others=node.known_attestors(),
        quorum=state.spec.gate.quorum,
        notices=state.number,
        crew=state.spec.crew,
        largest_round_bytes=largest_round_bytes(state.spec),
    )


def attests_here(node: RunNode, slot: str) -> bool:
    """Tells whether this peer may attest cards of the slot now, by the owner's word."""
    state = node.state
    may = state.may_attest(node.peer_id) and slot in state.spec.slots
    return may and standing(state, node.peer_id, node.chain.fork).attests
