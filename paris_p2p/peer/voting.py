"""An attestor signs: into the ledger first (votes.py), then to the swarm, and again after a restart."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from paris_p2p.envelope import Envelope
from paris_p2p.errors import SwarmError
from paris_p2p.node.run_node import RunNode
from paris_p2p.peer.votes import Votes
from paris_p2p.records import AttestationRecord, CardRecord
from paris_p2p.rules.next_check import may_sign
from paris_p2p.rules.rest import goes_back, words_after
from paris_p2p.rules.tips import Tip
from paris_p2p.training.messages import GateResult


class Voter:
    """Signs what was measured and tells it; whether it may be signed is decided before."""

    def __init__(self, node: RunNode, say: Callable[[str], None]):
        self.node, self.say = node, say
        self.votes = Votes(node.ledger, node.swarm.open)
        self.attested = 0

    async def sign(self, card: Envelope[CardRecord], result: GateResult, tip: Tip | None) -> None:
        """Attests a card that was measured after `tip`."""
        record = card.record
        await self._vote(card, self._attestation(card, result, tip))
        self.attested += 1
        self.say(
            f"attested {record.slot} seq {record.seq}: gate loss {result.loss:.4g} against "
            f"{result.reference_loss:.4g}"
        )
        if goes_back(record, tip):
            self.say(
                f"{record.slot} went back to its best checkpoint, of step {record.steps:,}; "
                f"it {words_after(record.lowered)}"
            )

    async def tell_again(self, slot: str) -> Envelope[CardRecord] | None:
        """Tells what this peer signed last, when it was killed before others heard of it: that place has
        nothing else to hope for. Returns the card where it still follows the tip.
        """
        node, vote = self.node, self.votes.newest(slot)
        if vote is None:
            return None
        card, attestation = vote
        if not node.state.attests(attestation, card):
            return None
        if not may_sign(card, node.board.tip(slot), self.votes.chosen(card.record)):
            return None
        node.keep(card)
        if node.rounds.is_whole(card.record):
            with suppress(SwarmError):  # nobody there: a peer that asks this one hears it
                await self._vote(card, attestation)
                await node.tell(card)
        return card  # without its blobs, it is a card that waits: to be fetched and checked again

    def _attestation(
        self, card: Envelope[CardRecord], result: GateResult, tip: Tip | None
    ) -> Envelope[AttestationRecord]:
        record = card.record
        better = tip is None or result.loss <= result.reference_loss
        head = self.node.header("attestation", record.slot) | {"seq": record.seq}
        attestation = AttestationRecord(
            **head,
            epoch=record.epoch,
            card=card.id,
            loss=result.loss,
            reference_loss=result.reference_loss,
            best=card.id if better or tip is None else tip.best,
            gate_clips=result.gate_clips,
            fixed_loss=result.fixed_loss,
        )
        return self.node.sign(attestation)

    async def _vote(self, card: Envelope[CardRecord], attestation: Envelope[AttestationRecord]) -> None:
        node = self.node
        self.votes.put(card, attestation)
        node.keep_good(card.record)
        node.keep(attestation)
        await node.tell(attestation)
        await node.announce_holding(card.id)
