"""How long an attestor's gate is kept for the next card follows from how many attest beside it."""

from __future__ import annotations

from pathlib import Path

from paris_p2p.identity import Identity
from paris_p2p.node.run_node import opened
from paris_p2p.peer.check import Checker
from paris_p2p.rules.gate_life import LEAST_IDLE_S
from paris_p2p.spec import TimingSpec
from tests.node.crew_world import host_in
from tests.peer.world import World

TIMING = TimingSpec(checkpoint_s=120.0)


async def test_an_attestor_keeps_its_gate_while_it_sees_many_cards_and_not_once_others_share_them(
    tmp_path: Path,
) -> None:
    async with (
        World(tmp_path, experts=2, timing=TIMING) as world,
        opened(host_in(world, "attestor"), world.run) as node,
    ):
        checker = Checker(node, "cpu", None)
        assert checker.gate_kept_s() == 3 * 120.0 / 3  # alone, of two experts and a router
        node.roles = {Identity.generate().peer_id: "peer" for _ in range(9)}
        assert checker.gate_kept_s() == LEAST_IDLE_S
        node.roles = {node.peer_id: "peer"}  # its own word that it is here counts once
        assert checker.gate_kept_s() == 3 * 120.0 / 3
