"""An attestor signs: into the ledger first (votes.py), then to the swarm; again soon where nobody could be
told, and after a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from paris_p2p.envelope import Envelope
from paris_p2p.errors import SwarmError
from paris_p2p.node.run_node import RunNode
from paris_p2p.peer.votes import Vote, Votes
from paris_p2p.records import AttestationRecord, CardRecord
from paris_p2p.rules.next_check import may_sign
from paris_p2p.rules.rest import goes_back, words_after
from paris_p2p.rules.tips import Tip, tip_id
from paris_p2p.training.messages import GateResult

_TELL_AGAIN_S = 30.0  # after others could not be told


class Voter:
    """Signs what was measured and tells it; whether it may be signed is decided before."""

    def __init__(self, node: RunNode, say: Callable[[str], None]):
        self.node, self.say = node, say
        self.votes = Votes(node.ledger, node.swarm.open)
        self.attested = 0
        self._newest: dict[str, Vote] = {}  # slot -> what was signed last
        self._untold: dict[str, Vote] = {}  # slot -> what nobody could be told of yet
        self._signed_again: set[str] = set()  # cards that are told with the signature: of before a restart

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
            self._signed_again.add(card.id)
            await self._vote(card, attestation)
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

    async def keep_telling(self) -> None:
        """Tells again what nobody could be told of, while it may matter, until cancelled: a place that an
        attestor is bound to has nothing else to hope for.
        """
        while True:
            await asyncio.sleep(_TELL_AGAIN_S)
            for slot, vote in list(self._untold.items()):
                if self._untold.get(slot) is not vote:  # it was told, or another was signed, meanwhile
                    continue
                (card, attestation), tip = vote, tip_id(self.node.board.tip(slot))
                if tip in (card.id, card.record.parent) and self.node.state.attests(attestation, card):
                    await self._tell(vote)
                else:
                    del self._untold[slot]

    async def _vote(self, card: Envelope[CardRecord], attestation: Envelope[AttestationRecord]) -> None:
        self.votes.put(card, attestation)
        self.node.keep_good(card.record)
        self.node.keep(attestation)
        vote = self._newest[card.record.slot] = card, attestation
        await self._tell(vote)

    async def _tell(self, vote: Vote) -> None:
        node, (card, attestation) = self.node, vote
        slot = card.record.slot
        try:
            await node.tell(attestation)
            await node.announce_holding(card.id)
            if card.id in self._signed_again:
                await node.tell(card)
        except SwarmError as error:  # a peer that asks this one hears it meanwhile
            if self._newest[slot] is vote:
                self._note_untold(slot, vote, error)
        else:
            self._signed_again.discard(card.id)
            if self._newest[slot] is vote:
                self._untold.pop(slot, None)

    def _note_untold(self, slot: str, vote: Vote, error: SwarmError) -> None:
        if slot not in self._untold:
            self.say(
                f"could not tell what was attested of {slot}: {error}; "
                f"trying again every {_TELL_AGAIN_S:.0f} s"
            )
        self._untold[slot] = vote
