"""Whatever a node asks of the swarm may meet a dead p2pd: no task of the node ends with it."""

from __future__ import annotations

import gc
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from paris_p2p.errors import DaemonError
from paris_p2p.identity import Identity
from paris_p2p.invite import Invite, make_token
from paris_p2p.node.host import Host
from paris_p2p.node.joining import Newcomer, join_run
from paris_p2p.node.run_node import opened
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.store.blobs import BlobStore
from tests.node.private_world import MEMBER, PrivateWorld
from tests.peer.world import Peer, World

GONE = "p2pd ended while it was asked; it is being restarted"
ASKED = (
    "connect",
    "try_at",
    "peers",
    "store_record",
    "read_records",
    "publish",
    "fetch_spec",
    "fetch_records",
    "fetch_manifest",
    "fetch_have",
    "measure_clock_offset",
    "ask",
    "disconnect",
)
SHARE = 0.5  # of the questions that meet a dead p2pd


class DyingDaemon:
    """Has questions of one peer meet a dead p2pd while it is `dying`, and counts those by name."""

    def __init__(self, swarm: Any, seed: int):
        self.dying, self.met, self._random = True, Counter[str](), random.Random(seed)
        for name in ASKED:
            setattr(swarm, name, self._question(name, getattr(swarm, name)))
        swarm.fetch_chunks = self._chunks(swarm.fetch_chunks)

    def _question(self, name: str, ask: Any) -> Any:
        async def asked(*args: Any, **named: Any) -> Any:
            self._may_die(name)
            return await ask(*args, **named)

        return asked

    def _chunks(self, fetch: Any) -> Any:
        async def chunks(*args: Any, **named: Any) -> AsyncGenerator[Any, None]:
            async for item in fetch(*args, **named):
                self._may_die("fetch_chunks")
                yield item

        return chunks

    def _may_die(self, name: str) -> None:
        if self.dying and self._random.random() < SHARE:
            self.met[name] += 1
            raise DaemonError(GONE)


async def test_no_task_of_a_node_ends_when_its_questions_meet_a_dead_p2pd(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with World(tmp_path) as world:
        owner = await world.add("owner", role="owner")
        await _lives_through(world, owner, [owner, await world.add("a"), await world.add("b")])
    _nothing_ended(caplog)


async def test_nor_in_a_private_run_whose_members_go_on_to_read_one_another_and_to_let_others_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A new p2pd has met nobody: members show themselves anew, and a token opens the door as before."""
    async with PrivateWorld(tmp_path) as world:
        owner = await world.add("owner", role="owner")
        peers = [owner, await world.add("a"), await world.add("b")]
        await _lives_through(world, owner, peers)
        comes = Identity.generate()
        host = Host(PeerSettings(data_dir=tmp_path / "late"), comes, BlobStore(tmp_path / "late" / "blobs"))
        host.swarm = world.network.join(comes, host)
        assert await join_run(host, _invite(world), Newcomer(again_s=0.02)) == world.run
        async with opened(host, world.run) as late:
            await world.until(lambda: any(late.board.tip(slot) for slot in world.run.record.slots))
            await world.until(lambda: all(comes.peer_id in peer.node.state.admissions for peer in peers))
        kinds = {subkey.rpartition(":")[2] for held in world.network.board.values() for subkey in held}
        assert kinds == {"sealed"}
    _nothing_ended(caplog)


def _invite(world: PrivateWorld) -> Invite:
    """An invite for one machine, as the owner's folder makes it."""
    now_s, admitter = time.time(), world.owner_node.peer_id
    token = make_token(
        world.owner, world.run.id, MEMBER, uses=1, now_s=now_s, until_s=now_s + 3600.0, admitters=[admitter]
    )
    return Invite(run=world.run.id, peers=(f"/ip4/127.0.0.1/tcp/1/p2p/{admitter}",), join=token.data)


async def _lives_through(world: World, owner: Peer, peers: list[Peer]) -> None:
    """Has the p2pd of all peers die again and again, and waits until a slot goes on after that."""
    slots = world.run.record.slots
    await world.until(lambda: any(_seq(owner, slot) for slot in slots))
    daemons = [DyingDaemon(peer.swarm, seed) for seed, peer in enumerate(peers)]
    often = {"read_records": 6}  # what a node asks again and again, whatever its part is
    await world.until(
        lambda: all(daemon.met[name] >= times for daemon in daemons for name, times in often.items())
    )
    for daemon in daemons:
        daemon.dying = False
    before = {slot: _seq(owner, slot) for slot in slots}
    await world.until(lambda: any(_seq(owner, slot) > seq for slot, seq in before.items()))
    assert not any(peer.task.done() for peer in peers)


def _nothing_ended(caplog: pytest.LogCaptureFixture) -> None:
    gc.collect()  # a task that ended with an error nobody asked for says so when it is forgotten
    assert "never retrieved" not in caplog.text
    assert not [record for record in caplog.records if record.exc_info and GONE in str(record.exc_info[1])]


def _seq(peer: Peer, slot: str) -> int:
    tip = peer.node.board.tip(slot)
    return tip.card.record.seq if tip else 0
