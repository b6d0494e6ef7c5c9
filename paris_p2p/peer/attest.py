"""An attestor: choose the cards worth a check, have them measured (check.py), sign what came out.

An attestor signs at most one card per (slot, epoch, seq), also across crashes (votes.py).
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from blake3 import blake3

from paris_p2p.envelope import Envelope
from paris_p2p.errors import MissingBlobError, ParisError, SwarmError
from paris_p2p.identity import peer_id_to_bytes
from paris_p2p.node.run_node import RunNode
from paris_p2p.peer.check import Checker, Gate, refuse_measured
from paris_p2p.peer.refusing import Refusals
from paris_p2p.peer.summary import checkpoint_limits
from paris_p2p.peer.votes import Votes
from paris_p2p.records import AttestationRecord, CardRecord, ClaimRecord
from paris_p2p.rules.checks import NO_PLACE, Candidate, is_held_up, look_up_every_s, next_checks, yields_to
from paris_p2p.rules.claims import ClaimView, leads_of, may_publish_among
from paris_p2p.rules.placement import attest_turn_s
from paris_p2p.rules.refusals import REASONS
from paris_p2p.rules.rest import goes_back, words_after
from paris_p2p.rules.tips import NO_PARENT, Tip, parent_may_come, refuse_card
from paris_p2p.rules.trust import may_attest
from paris_p2p.training.messages import GateResult

log = logging.getLogger(__name__)
RETRY_S = 20.0
MAX_REMEMBERED = 4096  # cards, strangers' too


@dataclass(frozen=True)
class Look:
    """A slot's claims as they were at one moment."""

    view: ClaimView
    claims: tuple[Envelope[ClaimRecord], ...]  # that hold the slot, the first lead's first
    now_s: float

    @cached_property
    def leads(self) -> list[str]:
        return [claim.signer for claim in self.claims]


class Attestor:
    """Watches the board and attests; `attested` and the node's `refused` counters show in status."""

    def __init__(
        self,
        node: RunNode,
        *,
        device: str = "cpu",
        say: Callable[[str], None] = log.info,
        gate: Gate | None = None,
    ):
        self.node, self.say = node, say
        self.votes = Votes(node.run, node.ledger)
        self.checker = Checker(node, device, gate)
        self.attested = 0
        self._from_leads: dict[str, None] = {}  # cards whose makers held the slot when they came, or later
        # cards counted as refused for what may come yet, and looked at again all the same
        self._put_off: set[str] = set()
        self._looked_up_s: dict[str, float] = {}  # slot -> when its records were last read for waiting cards
        self.refusals = Refusals(node, say)
        # Slot -> (tip, checks that came to no end, by card and by maker).
        self._failed: dict[str, tuple[str, Counter[str]]] = {}
        self._wake = {slot: asyncio.Event() for slot in node.spec.slots}
        node.listeners.append(self._notice)

    async def run(self) -> None:
        """Until cancelled: attest what may be attested."""
        if not may_attest(self.node.spec, self.node.peer_id):
            return
        for slot in self.node.spec.slots:
            await self._tell_vote_again(slot)
        # a silent maker holds up its own slot only
        slots = [asyncio.create_task(self._watch(slot)) for slot in self.node.spec.slots]
        try:
            await asyncio.gather(*slots)
        finally:
            for task in slots:
                task.cancel()
            await asyncio.gather(*slots, return_exceptions=True)
            await self.checker.close()

    async def _watch(self, slot: str) -> None:
        """A task's outermost frame: whatever others signed, the next look comes. Errors of this disk go
        on.
        """
        while True:
            try:
                await self._look_at(slot)
            except SwarmError as error:
                log.info("the swarm does not answer about %s: %s", slot, error)
                await asyncio.sleep(RETRY_S)
            except (ValueError, TypeError, ArithmeticError, LookupError):
                log.exception("a look at the cards of %s failed; they are looked at again", slot)
                self.node.refused["a fault of this program while a card was looked at"] += 1
                await asyncio.sleep(RETRY_S)

    async def _look_at(self, slot: str) -> None:
        """Check the cards of a slot that may be checked, see to the others, then wait for news."""
        self._wake[slot].clear()
        wait_s = RETRY_S
        step = next_checks(self._candidates(slot), self._looked_up_s.get(slot, -math.inf))
        for one in step.check:
            wait_s = min(wait_s, await self._consider(one.card))
        for one in step.refuse:
            if one.card in self.node.board.pending(slot):  # else the tip went past it while we looked
                await self._refuse(one.card, one.objection or "")
        for one in step.put_off:
            self._put_off_once(one.card, one.objection or "")
        if step.look_up:
            wait_s = min(wait_s, await self._look_up(slot))
        try:
            async with asyncio.timeout(wait_s):
                await self._wake[slot].wait()
        except TimeoutError:
            await self._look_up(slot)

    async def _look_up(self, slot: str) -> float:
        """Read the board again, at most once an interval; returns seconds until it may be read again, 0
        when it was.
        """
        now_s, every_s = time.time(), look_up_every_s(self.node.spec.timing.checkpoint_s)
        left_s = self._looked_up_s.get(slot, -math.inf) + every_s - now_s
        if 0 < left_s <= every_s:
            return left_s
        await self.node.refresh([slot])
        self._looked_up_s[slot] = now_s
        return 0.0

    def _candidates(self, slot: str) -> list[Candidate]:
        look, me = self._look(slot), self.node.peer_id
        pending = self.node.board.pending(slot)
        others = [card for card in pending if card.signer != me and card.id not in self.refusals]
        return [self._candidate(card, look) for card in others if self.refusals.may_go_back(card)]

    def _candidate(self, card: Envelope[CardRecord], look: Look) -> Candidate:
        slot, board = card.record.slot, self.node.board
        return Candidate(
            card=card,
            came_s=board.slots[slot].seen_at_s.get(card.id, -math.inf),
            place=look.leads.index(card.signer) if card.signer in look.leads else NO_PLACE,
            objection=self._objection(card, look),
            failed=self._failures(slot)[card.id] + self._failures(slot)[card.signer],
            attested=len(board.attestors(card.id, slot)),
        )

    def _failures(self, slot: str) -> Counter[str]:
        """Of checks after the present tip; with the next one all begin anew."""
        tip = self.node.board.tip(slot)
        head = tip.card.id if tip else ""
        if slot not in self._failed or self._failed[slot][0] != head:
            self._failed[slot] = head, Counter()
        return self._failed[slot][1]

    def _look(self, slot: str) -> Look:
        """Once for all cards of a slot: strangers' claims and cards may be many."""
        view, now_s = self.node.board.view(slot), time.time()
        return Look(view, leads_of(view.claims, view.tip, now_s, view.timing, view.heard), now_s)

    def _notice(self, envelope: Envelope[Any]) -> None:
        if isinstance(envelope.record, CardRecord):
            self._is_from_a_lead(envelope, self._look(envelope.record.slot))
        if (wake := self._wake.get(envelope.record.slot)) is not None:
            wake.set()

    def _is_from_a_lead(self, card: Envelope[CardRecord], look: Look) -> bool:
        """Whether the maker holds the slot, or did when the card came; once true, it stays so."""
        if card.id in self._from_leads:
            return True
        if not may_publish_among(look.claims, look.view, card, look.now_s):
            return False
        self._from_leads[card.id] = None
        if len(self._from_leads) > MAX_REMEMBERED:
            del self._from_leads[next(iter(self._from_leads))]
        return True

    async def _consider(self, card: Envelope[CardRecord]) -> float:
        """Attest one card, or refuse it for good; returns seconds until it should be looked at again."""
        slot, node = card.record.slot, self.node
        if card.signer == node.peer_id or node.peer_id in node.board.attestors(card.id, slot):
            return RETRY_S
        turn = self._turn(card)
        age = time.time() - node.board.slots[slot].seen_at_s.get(card.id, time.time())
        wait_s = turn * attest_turn_s(node.spec.timing.checkpoint_s)
        if age < wait_s:
            return wait_s - age
        tip = node.board.tip(slot)
        objection = self._objection(card, self._look(slot))
        if card not in node.board.pending(slot) or objection is not None or self._is_moot(card):
            return RETRY_S  # the tip moved, or another's card came first, while we looked at the ones before
        try:
            if (result := await self._check_unless_moot(card, tip)) is not None:
                await self._judge(card, result, tip)
        except ParisError as error:
            self._failures(slot).update((card.id, card.signer))
            self.say(f"could not check {slot} seq {card.record.seq} yet: {error}")
        return RETRY_S

    def _is_moot(self, card: Envelope[CardRecord]) -> bool:
        """Whether a check can end: the tip moved, or a card waits whose maker comes before this one's."""
        slot, board = card.record.slot, self.node.board
        tip, pending = board.tip(slot), board.pending(slot)
        if card not in pending or card.record.parent != (tip.card.id if tip else ""):
            return True
        mine, rivals = self._mine_and_rivals(card)
        return any(yields_to(mine, other) for other in rivals)

    def _mine_and_rivals(self, card: Envelope[CardRecord]) -> tuple[Candidate, list[Candidate]]:
        """The card and the others of the slot's leads that this peer did not judge yet."""
        slot, board, me = card.record.slot, self.node.board, self.node.peer_id
        look = self._look(slot)
        rivals = [
            other
            for other in board.pending(slot)
            if other.signer in look.leads
            and other.id not in self.refusals
            and me not in board.attestors(other.id, slot)
        ]
        return self._candidate(card, look), [self._candidate(other, look) for other in rivals]

    def _holds_up_another(self, card: Envelope[CardRecord]) -> bool:
        mine, rivals = self._mine_and_rivals(card)
        return any(is_held_up(mine, other) for other in rivals)

    def _objection(self, card: Envelope[CardRecord], look: Look) -> str | None:
        """What the card's own words and the board say against it, before anything is fetched."""
        slot = card.record.slot
        weights_bytes, resume_bytes = checkpoint_limits(self.node.spec, slot)
        if card.record.weights.size_bytes > weights_bytes or card.record.resume.size_bytes > resume_bytes:
            return REASONS["size"]
        if parent_may_come(card.record, self.node.board.tip(slot), self.node.board.slots[slot].cards):
            return NO_PARENT  # nothing else is held against it by a tip that it does not follow
        if self.refusals.goes_elsewhere(card.record):
            return REASONS["back"]
        lead = card.signer if self._is_from_a_lead(card, look) else ""
        signed = self.votes.chosen(card.record) if lead else None
        return refuse_card(card, self.node.board.tip(slot), lead, signed, self.node.peer_id)

    def _turn(self, card: Envelope[CardRecord]) -> int:
        """This peer's place among the known attestors of a card: the same list everywhere, shuffled by each
        card's id.

        A card that goes back is for those alone who refused what came after the tip, and costs them next to
        nothing.
        """
        if goes_back(card.record, self.node.board.tip(card.record.slot)):
            return 0
        peers = {self.node.peer_id, *self.node.known_attestors()} - {card.signer}
        order = sorted(peers, key=lambda peer: blake3(card.id.encode() + peer_id_to_bytes(peer)).digest())
        return max(0, order.index(self.node.peer_id) - self.node.spec.gate.quorum + 1)

    async def _check_unless_moot(self, card: Envelope[CardRecord], tip: Tip | None) -> GateResult | None:
        """What the gate measured; None when news ended the check. A maker that sends next to nothing must
        not hold the slot.
        """
        check = asyncio.create_task(self.checker.measure(card, tip))
        try:
            await self._wait_for(check, card)
            return await check if check.done() else None
        finally:
            check.cancel()
            await asyncio.gather(check, return_exceptions=True)

    async def _wait_for(self, check: asyncio.Task[GateResult], card: Envelope[CardRecord]) -> None:
        """Until the check is done or moot. Raises MissingBlobError when it takes longer than any honest maker
        needs, or, while another maker's card waits, than its turn is."""
        wake, limit_s = self._wake[card.record.slot], self.checker.limit_s(card.record)
        turn_s = self.checker.turn_s(card.record, self._mine_and_rivals(card)[0].failed)
        began_s, news = time.monotonic(), wake.is_set()
        while not check.done() and not self._is_moot(card):
            wake.clear()
            passed_s = time.monotonic() - began_s
            if passed_s >= limit_s:
                raise MissingBlobError(f"its check was not over after {limit_s:.0f} s; what came is kept")
            if passed_s >= turn_s and self._holds_up_another(card):
                raise MissingBlobError(
                    f"its check was not over after {turn_s:.0f} s, and another's card waits; "
                    "what came is kept"
                )
            next_s = turn_s if passed_s < turn_s else limit_s
            waiting = asyncio.create_task(wake.wait())
            try:
                await asyncio.wait(
                    {check, waiting},
                    timeout=min(next_s - passed_s, RETRY_S),
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:  # also when the check is cancelled: a task that nobody holds is destroyed while it waits
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
            news = news or wake.is_set()
        if news:
            wake.set()

    async def _judge(self, card: Envelope[CardRecord], result: GateResult, tip: Tip | None) -> None:
        """Sign what was measured, or refuse the card for good."""
        node, record = self.node, card.record
        if reason := refuse_measured(result, tip, node.spec.gate.tolerance):
            await self._refuse(card, reason, result)
            return
        now_tip = node.board.tip(record.slot)
        if (now_tip.card.id if now_tip else "") != record.parent:
            return  # the tip moved while we measured
        await self._sign(card, result, tip)

    async def _sign(self, card: Envelope[CardRecord], result: GateResult, tip: Tip | None) -> None:
        node, record = self.node, card.record
        if self.votes.chosen(record) not in (None, card.id):
            return
        better = tip is None or result.loss <= result.reference_loss
        head = node.header("attestation", record.slot)
        head["seq"] = record.seq
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
        await self._vote(card, node.sign(attestation))
        self.attested += 1
        self.say(
            f"attested {record.slot} seq {record.seq}: gate loss {result.loss:.4f} against "
            f"{result.reference_loss:.4f}"
        )
        if goes_back(record, tip):
            self.say(
                f"{record.slot} went back to its best checkpoint, of step {record.steps:,}; "
                f"it {words_after(record.lowered)}"
            )

    async def _vote(self, card: Envelope[CardRecord], attestation: Envelope[AttestationRecord]) -> None:
        node = self.node
        self.votes.put(card, attestation)
        node.keep_good(card.record)
        node.keep(attestation)
        await node.tell(attestation)
        await node.announce_holding(card.id)

    async def _tell_vote_again(self, slot: str) -> None:
        """What this peer signed last, when it was killed before others heard of it: that place has nothing
        else to hope for.
        """
        node, vote, tip = self.node, self.votes.newest(slot), self.node.board.tip(slot)
        if vote is None:
            return
        card, attestation = vote
        if card.record.parent != (tip.card.id if tip else "") or self.votes.chosen(card.record) not in (
            None,
            card.id,
        ):
            return
        self._from_leads[card.id] = None  # it was asked when the card was chosen
        node.keep(card)
        if not all(node.host.store.has(ref.id) for ref in (card.record.weights, card.record.resume)):
            return  # as a card that waits: to be fetched and checked again
        with suppress(SwarmError):  # nobody there: whoever asks this peer is told
            await self._vote(card, attestation)
            await node.tell(card)

    def _put_off_once(self, card: Envelope[CardRecord], objection: str) -> None:
        """Counted once a card, and said only when few are: anybody can make such cards without end."""
        if card.id in self._put_off:
            return
        if len(self._put_off) >= MAX_REMEMBERED:
            self._put_off.clear()
        self._put_off.add(card.id)
        self.node.refused[objection] += 1
        log.info(
            "put off %s seq %d of %s: %s", card.record.slot, card.record.seq, card.signer[-8:], objection
        )

    async def _refuse(
        self, card: Envelope[CardRecord], reason: str, result: GateResult | None = None
    ) -> None:
        """For good; a maker that leads is told why."""
        refusal = self.refusals.put(card, reason, result)
        if refusal is not None and self._is_from_a_lead(card, self._look(card.record.slot)):
            self.node.keep(refusal)
            with suppress(SwarmError):  # nobody there: whoever asks this peer is told
                await self.node.tell(refusal)
