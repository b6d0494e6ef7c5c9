"""What a node says of itself does not wait for a p2pd that hangs, and says that it does."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from rich.console import Console

from paris_p2p.dashboard.feed import Feed
from paris_p2p.monitoring.families import Families
from paris_p2p.monitoring.peer_families import peer_families
from paris_p2p.node.node_figures import NO_ANSWER
from paris_p2p.peer.view import draw
from tests.peer.world import World


def answers(families: Families) -> float:
    (sample,) = (
        one
        for family in families.metrics()
        for one in family.samples
        if one.name.startswith("paris_p2pd_answers")
    )
    return sample.value


async def test_a_p2pd_that_hangs_is_told_by_status_page_and_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paris_p2p.node.node_figures.PEERS_LIMIT_S", 0.1)
    async with World(tmp_path) as world:
        await world.add("owner", role="owner")
        peer = await world.add("a", slot="expert-0")
        before = await peer.volunteer.status()
        assert (len(before.peers), before.network_trouble) == (1, "")
        assert answers(peer_families(before)) == 1
        monkeypatch.setattr(peer.swarm, "peers", asyncio.Event().wait)
        async with asyncio.timeout(60):
            status = await peer.volunteer.status()
            feed = Feed(peer.volunteer.status)
            await feed._once()
        assert (status.peers, status.network_trouble) == ((), NO_ANSWER)
        assert answers(peer_families(status)) == 0
        assert feed.newest["trouble"] == NO_ANSWER
        assert json.loads(feed._text)["status"]["run"] == world.run.id
        console = Console(width=200)
        with console.capture() as drawn:
            console.print(draw(status))
        assert NO_ANSWER in drawn.get()
