"""The tips of a members-only run count by certificates, which a restart and a newcomer must know."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from paris_p2p.envelope import Envelope, seal
from paris_p2p.identity import Identity
from paris_p2p.node.run_node import RunNode
from paris_p2p.owner_records import Pause
from tests.node.members_world import DAY_S, MembersWorld, soon
from tests.rules.made import attest, card

SLOT = "expert-0"


def tip_id(node: RunNode) -> str:
    tip = node.board.tip(SLOT)
    return tip.card.id if tip else ""


async def two_members(world: MembersWorld) -> tuple[RunNode, list[RunNode]]:
    owner = await world.owners_node()
    members = [await world.join(world.host(name), world.token(uses=5)) for name in ("maker", "attestor")]
    return owner, members


def made_by(maker: RunNode, attestor: RunNode, count: int = 2) -> list[Envelope[Any]]:
    """So many cards of one member, each attested by the other."""
    records: list[Envelope[Any]] = []
    now_s = time.time()
    head = {"run": maker.run, "issued_at": now_s, "expires_at": now_s + 900}
    for _ in range(count):
        one = card(maker.host.identity, records[-2] if records else None, **head)
        records += [one, attest(attestor.host.identity, one, **head)]
    return records


async def test_a_restart_knows_the_members_before_it_counts_so_that_no_tip_falls(tmp_path: Path) -> None:
    async with MembersWorld(tmp_path) as world:
        owner, (maker, attestor) = await two_members(world)
        records = made_by(maker, attestor)
        owner.keep_all([world.notice(Pause(reason="night"))])
        owner.keep_all(records)
        assert tip_id(owner) == records[-2].id
        again = RunNode(owner.host, world.run)
        assert tip_id(again) == records[-2].id
        assert len(again.board.slots[SLOT].past) == 1


async def test_a_newcomer_knows_the_members_behind_the_tips_though_they_have_gone(tmp_path: Path) -> None:
    async with MembersWorld(tmp_path) as world:
        owner, (maker, attestor) = await two_members(world)
        records = made_by(maker, attestor)
        owner.keep_all(records)
        for gone in (maker, attestor):
            world.swarm(gone).offline = True
            shown = owner.membership.known[gone.peer_id].record
            dates = {"issued_at": shown.issued_at - 2 * DAY_S, "expires_at": shown.expires_at - 2 * DAY_S}
            old = seal(gone.host.identity, shown.model_copy(update=dates))
            owner.membership.known[gone.peer_id] = old  # it showed itself two days ago
        world.network.board.clear()
        late = await world.join(world.host("late"), world.token(uses=5))
        await soon(lambda: tip_id(late) == records[-2].id)


async def test_a_stranger_with_a_certificate_of_its_own_making_is_not_kept(tmp_path: Path) -> None:
    async with MembersWorld(tmp_path) as world:
        owner, (maker, _) = await two_members(world)
        stranger = Identity.generate()
        certificate = maker.membership.certificate
        assert certificate is not None
        forged = certificate.record.model_copy(update={"peer": stranger.peer_id})
        assert maker.membership.own is not None
        shown = maker.membership.own.record.model_copy(update={"certificate": seal(stranger, forged).data})
        before = [key for key, _ in owner.ledger.items("member/")]
        owner.keep_all([seal(stranger, shown)])
        owner.membership.take(seal(stranger, shown))
        assert stranger.peer_id not in owner.membership.known
        assert [key for key, _ in owner.ledger.items("member/")] == before
        assert not owner.state.is_member(stranger.peer_id)
