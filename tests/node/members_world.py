"""A run for members only on a fake network: its owner's node lets in by token, or by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from paris_p2p.crew_records import CrewSpec
from paris_p2p.envelope import Envelope, seal
from paris_p2p.identity import Identity
from paris_p2p.invite import Invite, make_token
from paris_p2p.node.host import Host
from paris_p2p.node.joining import Newcomer, join_run
from paris_p2p.node.run_node import RunNode, opened
from paris_p2p.owner_records import AnyChange, NoticeRecord, Right
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.rules.chain import Notice
from paris_p2p.spec import GateSpec, RunSpec, TimingSpec, sign_run
from paris_p2p.store.blobs import BlobStore
from paris_p2p.swarm.fake import FakeSwarm
from tests.peer.world import World

MACHINE: tuple[Right, ...] = ("train", "attest", "generate")
DAY_S = 86400.0


class MembersWorld(World):
    """Its peers are nodes without volunteers, which only talk."""

    def __init__(self, root: Path, crew: CrewSpec | None = None):
        self.owner, self.owner_node = Identity.generate(), Identity.generate()
        self.stack = AsyncExitStack()
        self.notices: list[Notice] = []
        super().__init__(root, crew=crew)

    def _make_run(self, experts: int, gate: GateSpec, timing: TimingSpec) -> Envelope[RunSpec]:
        plain = super()._make_run(experts, gate, timing).record
        changes = {"owner_node": self.owner_node.peer_id, "members_only": True}
        return sign_run(self.owner, plain.model_copy(update=changes))

    async def __aexit__(self, *_: object) -> None:
        await self.stack.aclose()
        await super().__aexit__(*_)

    def host(self, name: str, identity: Identity | None = None) -> Host:
        """A peer that is on the network, and in no run yet."""
        identity = identity or Identity.generate()
        folder = self.root / name
        host = Host(PeerSettings(data_dir=folder), identity, BlobStore(folder / "blobs"))
        host.swarm = self.network.join(identity, host)
        return host

    async def open(self, host: Host) -> RunNode:
        return await self.stack.enter_async_context(opened(host, self.run))

    async def owners_node(self) -> RunNode:
        host = self.host("owner", self.owner_node)
        for shard in self.run.record.train_shards + self.run.record.gate_shards:
            host.store.add_file(self.shards.path(shard.blob.id))
        return await self.open(host)

    def token(
        self,
        *,
        uses: int = 1,
        rights: Sequence[Right] = MACHINE,
        issuer: Identity | None = None,
        admitters: Sequence[str] = (),
        ago_s: float = 0.0,
        lasts_s: float = DAY_S,
        run: str = "",
    ) -> Invite:
        now_s = time.time() - ago_s
        token = make_token(
            issuer or self.owner,
            run or self.run.id,
            rights,
            uses=uses,
            now_s=now_s,
            until_s=now_s + lasts_s,
            admitters=admitters or [self.owner_node.peer_id],
        )
        return Invite(run=self.run.id, peers=(self.address(self.owner_node.peer_id),), join=token.data)

    def address(self, peer: str) -> str:
        return f"/ip4/127.0.0.1/tcp/1/p2p/{peer}"

    async def join(self, host: Host, invite: Invite, **more: Any) -> RunNode:
        """Joins as a volunteer's peer does, and opens the run."""
        assert await join_run(host, invite, Newcomer(again_s=0.02, **more)) == self.run
        return await self.open(host)

    def notice(self, change: AnyChange) -> Notice:
        now_s = time.time()
        head = self.notices[-1].id if self.notices else self.run.id
        record = NoticeRecord(
            run=self.run.id,
            seq=len(self.notices) + 1,
            issued_at=now_s,
            expires_at=now_s + DAY_S,
            previous=head,
            change=change,
        )
        self.notices.append(seal(self.owner, record))
        return self.notices[-1]

    def swarm(self, node: RunNode) -> FakeSwarm:
        return self.network.swarms[node.peer_id]


async def soon(what: Any, wait_s: float = 30.0) -> None:
    async with asyncio.timeout(wait_s):
        while not what():
            await asyncio.sleep(0.01)
