"""Whatever ends a peer, and in whatever it was: no task is left behind to be destroyed while it waits."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from paris_p2p.training.messages import GateJob, GateResult
from tests.peer.world import World

SLOT = "expert-0"


def left() -> list[str]:
    return [repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]


@pytest.mark.parametrize("how", ["killed", "left", "tip moved"])
async def test_a_peer_that_ends_in_the_middle_of_a_check_leaves_no_task(tmp_path: Path, how: str) -> None:
    checking, go_on = asyncio.Event(), asyncio.Event()

    async def stuck(job: GateJob) -> GateResult:
        checking.set()
        await go_on.wait()
        return GateResult(ok=True, loss=0.5, reference_loss=1.0, gate_clips=4)

    async with World(tmp_path) as world:
        owner = await world.add("owner", role="owner", gate=stuck)
        await world.add("a", slot=SLOT)
        await asyncio.wait_for(checking.wait(), 120)
        if how == "killed":
            await owner.die()
        elif how == "left":
            await owner.volunteer.leave()
            await asyncio.wait_for(owner.task, 120)
        else:
            go_on.set()
            await world.until(lambda: owner.node.board.tip(SLOT) is not None)
    await asyncio.sleep(0)  # what was cancelled last ends now
    assert not left()
