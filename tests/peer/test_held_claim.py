"""A lead's claim while the swarm cannot be told of it: it runs out by itself, and training goes on."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from paris_p2p.errors import DaemonError
from paris_p2p.records import ClaimRecord
from tests.peer.world import TIMING, World

SLOT = "expert-0"
LONG = TIMING.model_copy(update={"claim_s": 3600.0})  # nothing is renewed meanwhile


async def test_a_renewal_that_nobody_hears_of_prolongs_nothing_and_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path, timing=LONG) as world:
        peer = await world.add("a", slot=SLOT)
        await world.until(lambda: peer.volunteer.lead is not None)
        assert peer.volunteer.lead is not None
        held = peer.volunteer.lead.claim
        before = held.holding

        async def offline(topic: str, data: bytes) -> None:
            raise DaemonError("p2pd ended the conversation")

        with monkeypatch.context() as cut:
            cut.setattr(peer.swarm, "publish", offline)
            await held.renew()
        assert any("could not renew the claim of expert-0" in line for line in peer.said)
        assert held.holding.ends_s == before.ends_s
        await held.renew(before.epoch + 3)
        assert held.holding.ends_s > before.ends_s
        claims = [claim.record for claim in peer.node.board.claims(SLOT)]
        assert [(claim.epoch, claim.claimed_at) for claim in claims] == [
            (before.epoch + 3, before.claimed_at)
        ]
        assert peer.volunteer.lead.training.epoch == before.epoch + 3


async def test_a_claim_is_kept_for_as_long_as_its_lead_works(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        peer = await world.add("a", slot=SLOT)
        await world.until(lambda: peer.volunteer.lead is not None)
        renewed = set[float]()

        def twice_renewed() -> bool:
            assert peer.volunteer.lead is not None
            renewed.update(claim.record.issued_at for claim in peer.node.board.claims(SLOT))
            return len(renewed) >= 3

        await world.until(twice_renewed)
        (claim,) = peer.node.board.claims(SLOT)
        assert isinstance(claim.record, ClaimRecord)
        assert claim.record.claimed_at == min(renewed)
        assert claim.record.expires_at > time.time()
        await asyncio.wait_for(peer.volunteer.pause(), 120)
        (claim,) = peer.node.board.claims(SLOT)
        assert claim.record.released
