"""This peer's claim on the slot it leads: renewed when the rules say so, moved to another epoch, released."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from paris_p2p.envelope import Envelope
from paris_p2p.errors import SwarmError
from paris_p2p.node.run_node import RunNode
from paris_p2p.records import ClaimRecord
from paris_p2p.rules.claims import Decision, decide_claim
from paris_p2p.rules.holding import holding_of, renew_in_s

_LOOKS = 12  # at a claim in its length, at most: when it is due and the rules do not renew it yet


class HeldClaim:
    """One claim over its renewals."""

    def __init__(self, node: RunNode, claim: Envelope[ClaimRecord], say: Callable[[str], None]):
        self.node, self.say, self.slot = node, say, claim.record.slot
        self.holding = holding_of(claim.record, time.monotonic())

    def decide(self) -> Decision:
        """Returns what the rules say of this claim now. One that lapsed while nobody came is not lost: it is
        made anew.
        """
        return decide_claim(self.node.board.view(self.slot), self.node.peer_id, time.time())

    async def keep(self) -> None:
        """Renews the claim until cancelled, at each third of its length."""
        timing = self.node.spec.timing
        while True:
            due_s = renew_in_s(self.holding.issued_at, time.time(), timing)
            await asyncio.sleep(max(timing.claim_s / _LOOKS, due_s))
            is_below = self.holding.epoch < self.node.state.floor_epoch(self.slot)  # it counts for nothing
            if self.decide().action in ("hold", "claim") and not is_below:
                await self.renew()

    async def renew(self, epoch: int | None = None) -> None:
        """Signs the claim anew, perhaps under a higher epoch, and tells the others. While they cannot be told
        it runs out, and nothing is published.
        """
        timing, started_s = self.node.spec.timing, time.monotonic()
        head = self.node.header("claim", self.slot, timing.claim_s)
        epoch = self.holding.epoch if epoch is None else epoch
        self.holding = self.holding.renewing(epoch, head["issued_at"], started_s)
        try:
            await self.node.say(ClaimRecord(**head, epoch=epoch, claimed_at=self.holding.claimed_at))
        except SwarmError as error:  # the network may come back
            self.say(f"could not renew the claim of {self.slot}: {error}; training goes on")
        else:
            self.holding = self.holding.renewed(started_s + timing.claim_s)

    async def release(self) -> None:
        """Tells the others that this peer holds the slot no longer."""
        head = self.node.header("claim", self.slot, self.node.spec.timing.claim_s)
        holding = self.holding
        try:
            await self.node.say(
                ClaimRecord(**head, epoch=holding.epoch, claimed_at=holding.claimed_at, released=True)
            )
        except SwarmError as error:
            self.say(f"could not release {self.slot}, its claim runs out by itself: {error}")
