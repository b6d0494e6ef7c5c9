"""A card that a killed lead had signed and nobody heard of: told again after a reboot, its work is not
lost.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paris_p2p.envelope import Envelope, open_envelope
from paris_p2p.node.run_node import RunNode
from paris_p2p.peer import own_cards
from paris_p2p.records import CardRecord
from paris_p2p.rules.claims import lead_of
from paris_p2p.rules.tips import NO_CLAIM
from tests.peer.world import TIMING, CountingTrainer, Peer, World

SLOT = "expert-0"


class OneCheckpoint(CountingTrainer):
    """Stays at its first checkpoint, far along."""

    checkpoint_steps = 60


async def killed_with_a_card(world: World, owner: Peer) -> tuple[Peer, Envelope[CardRecord]]:
    """A lead whose claim the owner knew; it made a card while cut off, was killed, and its claim has run
    out.
    """
    peer = await world.add("a", slot=SLOT, trainer=OneCheckpoint)
    await world.until(lambda: peer.volunteer.lead is not None and peer.volunteer.lead.training.steps > 0)
    peer.swarm.offline = True
    await world.until(lambda: peer.node.ledger.get(f"own-card/{SLOT}") is not None)
    await peer.die()
    await asyncio.sleep(TIMING.claim_s + TIMING.margin_s)
    assert not owner.node.board.pending(SLOT)
    data = peer.node.ledger.get(f"own-card/{SLOT}")
    assert data is not None
    return peer, open_envelope(data, run=world.run.id)


async def test_it_counts_when_its_maker_leads_again(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        owner = await world.add("owner", role="owner")
        peer, card = await killed_with_a_card(world, owner)
        owner.node.board.slots[SLOT].claims.clear()  # as an attestor that came meanwhile
        await world.restart("a", peer, slot=SLOT, trainer=OneCheckpoint)
        await world.until(lambda: owner.node.board.tip(SLOT) is not None)
        assert owner.node.board.tip(SLOT).card.id == card.id  # type: ignore[union-attr]


async def test_it_counts_while_nobody_leads_even_when_its_maker_goes_elsewhere(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        owner = await world.add("owner", role="owner")
        peer, card = await killed_with_a_card(world, owner)
        await world.restart("a", peer, slot="router")
        await world.until(lambda: owner.node.board.tip(SLOT) is not None)
        assert owner.node.board.tip(SLOT).card.id == card.id  # type: ignore[union-attr]


async def test_it_is_a_stale_leads_card_once_another_leads(tmp_path: Path) -> None:
    looked_at = asyncio.Event()

    class Held(OneCheckpoint):
        """Begins when the stale card was looked at: its own would go past it."""

        async def lines(self):  # type: ignore[no-untyped-def]
            await looked_at.wait()
            async for line in super().lines():
                yield line

    async with World(tmp_path) as world:
        owner = await world.add("owner", role="owner")
        peer, card = await killed_with_a_card(world, owner)
        heir = await world.add("heir", slot=SLOT, trainer=Held)
        await world.until(
            lambda: lead_of(owner.node.board.claims(SLOT), None, time.time(), TIMING) is not None
        )
        await world.restart("a", peer, slot="router")
        await world.until(lambda: owner.node.refused[NO_CLAIM] >= 1)
        looked_at.set()
        await world.until(lambda: owner.node.board.tip(SLOT) is not None)
        assert owner.node.board.tip(SLOT).card.signer == heir.node.peer_id  # type: ignore[union-attr]
        assert not owner.node.board.attestors(card.id, SLOT)


async def test_it_is_told_once_it_counts_though_it_did_not_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a member has yet to tell what the owner said, or a round's update to come."""
    monkeypatch.setattr(own_cards, "_LOOK_S", 0.05)
    view, looked = own_cards.own_view, asyncio.Event()

    def not_yet(node: RunNode, own: Any) -> Any:
        looked.set()
        return replace(view(node, own), counts=False)

    async with World(tmp_path) as world:
        owner = await world.add("owner", role="owner")
        peer, card = await killed_with_a_card(world, owner)
        with monkeypatch.context() as patch:
            patch.setattr(own_cards, "own_view", not_yet)
            await world.restart("a", peer, slot="router")
            await asyncio.wait_for(looked.wait(), 60)
            await asyncio.sleep(1)
        await world.until(lambda: owner.node.board.tip(SLOT) is not None)
        assert owner.node.board.tip(SLOT).card.id == card.id  # type: ignore[union-attr]
