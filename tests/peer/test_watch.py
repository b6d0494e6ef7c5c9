"""A peer stops beside another with its key, and one that woke says what it found."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from paris_p2p.envelope import seal
from paris_p2p.errors import TwinError
from paris_p2p.peer.watch import watch_clocks, what_is_found
from paris_p2p.records import ClaimRecord, PeerRecord, Signed
from paris_p2p.rules.wake import Clocks
from tests.peer.world import Peer, World

SLOT = "expert-0"


def signed_elsewhere(peer: Peer, kind: type[Signed], slot: str = "", **fields: Any) -> Any:
    """A record under the peer's key, as another node with a copy of its folder signs it."""
    now, seq = time.time() + 0.5, int(time.time() * 1000) + 500
    head = {"run": peer.node.run, "slot": slot, "seq": seq, "issued_at": now, "expires_at": now + 60.0}
    return seal(peer.node.host.identity, kind(**head, **fields))


@pytest.mark.parametrize(
    ("kind", "slot", "fields"),
    [(ClaimRecord, SLOT, {"epoch": 1, "claimed_at": 1.0}), (PeerRecord, "", {"role": "peer"})],
    ids=["a claim", "its presence"],
)
async def test_a_peer_stops_when_another_node_signs_with_its_key_and_does_not_end_the_others_claim(
    tmp_path: Path, kind: type[Signed], slot: str, fields: dict[str, Any]
) -> None:
    async with World(tmp_path) as world:
        peer = await world.add("a", slot=SLOT)
        await world.until(lambda: peer.volunteer.lead is not None)
        await peer.swarm.store_record(signed_elsewhere(peer, kind, slot, **fields))
        with pytest.raises(
            TwinError,
            match=r"another node runs with this node's identity\.key: a (claim|peer) record.*--data-dir",
        ):
            await asyncio.wait_for(peer.task, 120)
        assert not any(claim.record.released for claim in peer.node.board.claims(SLOT))


async def test_a_peer_that_was_killed_and_comes_back_finds_its_own_records_its_own(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        await world.add("owner", role="owner")
        peer = await world.add("a", slot=SLOT)
        await world.until(lambda: peer.node.board.tip(SLOT) is not None)
        await peer.die()
        again = await world.restart("a", peer, slot=SLOT)
        seq = again.node.board.tip(SLOT).card.record.seq  # type: ignore[union-attr]
        await world.until(lambda: again.node.board.tip(SLOT).card.record.seq > seq)  # type: ignore[union-attr]
        assert again.node.own.twin is None


async def test_a_woken_peer_reads_the_records_anew_and_says_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paris_p2p.peer.watch._TICK_S", 0.01)
    async with World(tmp_path) as world:
        peer = await world.add("a", slot=SLOT)
        await world.add("owner", role="owner")
        await world.until(lambda: peer.node.board.tip(SLOT) is not None and peer.volunteer.lead is not None)
        looks = iter([Clocks(0.0, 0.0), Clocks(45.0, 45.0)])
        said: list[str] = []
        watching = asyncio.create_task(
            watch_clocks(peer.node, lambda: SLOT, said.append, lambda: next(looks, Clocks(45.01, 45.01)))
        )
        await world.until(lambda: len(said) >= 2)
        watching.cancel()
        assert said[0] == "this peer stood still for 45 s (the machine slept, or the process was stopped)"
        assert said[1].startswith("expert-0: it leads still; expert-0 is at seq")
        assert said[1].endswith("this peer's")
        await peer.volunteer.pause()
        assert "nobody came" in what_is_found(peer.node, SLOT, time.time())
        assert what_is_found(peer.node, "", time.time()).startswith(
            "no slot is this peer's; tips are: expert-0 is at seq"
        )
