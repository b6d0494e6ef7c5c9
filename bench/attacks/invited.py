"""Attacks real nodes on loopback as anybody can who has the invite: old claims, made-up quorums, stray
cards.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paris_p2p.envelope import Envelope, seal
from paris_p2p.identity import Identity, write_private_file
from paris_p2p.kinds import cards_topic
from paris_p2p.node.host import open_host
from paris_p2p.node.run_node import RunNode, opened
from paris_p2p.peer.volunteer import Role, Volunteer
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.records import AttestationRecord, BlobRef, CardRecord, ClaimRecord, Signed
from paris_p2p.spec import GateSpec, TimingSpec
from paris_p2p.swarm.real import RealSwarm, open_swarm
from tests.peer.world import CountingTrainer, World, good_gate

TIMING = TimingSpec(claim_s=12.0, settle_s=1.0, margin_s=1.0, checkpoint_s=3.0)
SLOT = "expert-0"
WATCH_S = 60.0
FLOOD_S = 45.0
FAR_S = 0.2  # what a read of the DHT takes an attestor that is far away
TOP = (1 << 53) - 1
BLOB = BlobRef(id="ab" * 32, size_bytes=10)


@dataclass
class Peer:
    node: RunNode
    volunteer: Volunteer
    task: asyncio.Task[None]

    @property
    def seq(self) -> int:
        tip = self.node.board.tip(SLOT)
        return tip.card.record.seq if tip else 0


class Nodes:
    """Holds real nodes of one small run, whose trainers and gates only count.

    The others join by the first.
    """

    def __init__(self, folder: Path, gate: GateSpec, stack: AsyncExitStack):
        self.folder, self.stack, self.made = folder, stack, World(folder / "made", gate=gate, timing=TIMING)
        self.run, self.peers, self.way_in = self.made.run, list[Peer](), tuple[str, ...]()

    async def add(
        self, name: str, role: Role = "peer", slot: str = "", identity: Identity | None = None
    ) -> Peer:
        settings = PeerSettings(data_dir=self.folder / name, host="127.0.0.1", slot=slot)
        if identity is not None:
            write_private_file(settings.data_dir / "identity.key", identity.libp2p_private_key())
        host = await self.stack.enter_async_context(open_host(settings, self.way_in))
        self.way_in = self.way_in or host.swarm.addresses()
        for shard in self.run.record.train_shards + self.run.record.gate_shards:
            host.store.add_file(self.made.shards.path(shard.blob.id))
        node = await self.stack.enter_async_context(opened(host, self.run))
        volunteer = Volunteer(node, settings, role=role, make_worker=CountingTrainer, gate=good_gate)
        peer = Peer(node, volunteer, asyncio.create_task(volunteer.run()))
        self.peers.append(peer)
        return peer

    async def outsider(self) -> RealSwarm:
        settings = PeerSettings(data_dir=self.folder / "outsider", host="127.0.0.1")
        joined = open_swarm(Identity.generate(), settings, bootstrap_peers=self.way_in)
        return await self.stack.enter_async_context(joined)

    def head(self, seq: int, lifetime_s: float = 3600.0) -> dict[str, Any]:
        now = time.time()
        return {
            "run": self.run.id,
            "slot": SLOT,
            "seq": seq,
            "issued_at": now,
            "expires_at": now + lifetime_s,
        }


@asynccontextmanager
async def nodes(folder: Path, gate: GateSpec) -> AsyncIterator[Nodes]:
    async with AsyncExitStack() as stack:
        room = Nodes(folder, gate, stack)
        try:
            yield room
        finally:
            for peer in room.peers:
                peer.task.cancel()
            await asyncio.gather(*(peer.task for peer in room.peers), return_exceptions=True)


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(120.0):
        while not what():
            await asyncio.sleep(0.1)


async def claims_since_1970(folder: Path) -> str:
    """Claims a slot since 1970 with one key without a trainer.

    Its lead pauses and comes back, another stands by.
    """
    owner_key, liar = Identity.generate(), Identity.generate()
    async with nodes(folder, GateSpec(members_attest=False, attestors=(owner_key.peer_id,))) as room:
        owner = await room.add("owner", "owner", identity=owner_key)
        both = [await room.add(name, slot=SLOT) for name in "ab"]
        outsider = await room.outsider()
        await until(lambda: owner.seq >= 2)

        async def squat() -> None:
            while True:
                tip, now = owner.node.board.tip(SLOT), time.time()
                epoch = tip.card.record.epoch + 1 if tip else 1
                await tell(
                    outsider,
                    liar,
                    ClaimRecord(**room.head(int(now * 1000), TIMING.claim_s), epoch=epoch, claimed_at=1.0),
                )
                await asyncio.sleep(TIMING.claim_s / 3)

        squatting = asyncio.create_task(squat())
        try:
            await asyncio.sleep(TIMING.claim_s)
            lead = next(peer for peer in both if peer.volunteer.lead is not None)
            await lead.volunteer.pause()
            await lead.volunteer.resume()
            before = owner.seq
            await asyncio.sleep(WATCH_S)
            return f"{owner.seq - before} tips in {WATCH_S:.0f} s after the pause"
        finally:
            squatting.cancel()
            await asyncio.gather(squatting, return_exceptions=True)


async def made_up_quorum(folder: Path) -> str:
    """Signs, by three made-up keys, a card at seq and epoch 2^53 - 1 where two must sign; it has no blobs."""
    async with nodes(folder, GateSpec(quorum=2)) as room:
        owner = await room.add("owner", "owner")
        for name in "ab":
            await room.add(name)
        outsider = await room.outsider()
        await until(lambda: owner.seq >= 1)
        maker, *signers = (Identity.generate() for _ in range(3))
        numbers = {"epoch": TOP, "clips": TOP, "steps": TOP}
        card = await tell(
            outsider,
            maker,
            CardRecord(
                **room.head(TOP), parent="cd" * 32, weights=BLOB, resume=BLOB, train_loss=0.1, **numbers
            ),
        )
        for signer in signers:
            loss = {"loss": 0.0, "reference_loss": 0.0, "gate_clips": 4}
            await tell(
                outsider,
                signer,
                AttestationRecord(**room.head(TOP), epoch=TOP, card=card.id, best=card.id, **loss),
            )
        await asyncio.sleep(WATCH_S / 2)
        alive = sum(not peer.task.done() for peer in room.peers)
        return f"{alive} of {len(room.peers)} peers go on, the tip is seq {owner.seq}"


async def cards_without_a_claim(folder: Path) -> str:
    """Sends 8 cards a second without a claim, highest epoch first, to an attestor that reads in 0.2 s."""
    owner_key, liar = Identity.generate(), Identity.generate()
    async with nodes(folder, GateSpec(members_attest=False, attestors=(owner_key.peer_id,))) as room:
        owner = await room.add("owner", "owner", identity=owner_key)
        _far_away(owner.node.host.swarm)
        await room.add("a", slot=SLOT)
        outsider = await room.outsider()
        counts = []
        for is_attack in (False, True):
            await until(lambda: owner.seq >= 2)
            before, ends_s = owner.seq, time.monotonic() + FLOOD_S
            while time.monotonic() < ends_s:
                tip = owner.node.board.tip(SLOT)
                if is_attack and tip is not None:
                    last = tip.card.record
                    numbers = {"epoch": last.epoch + 2000, "clips": last.clips + 1, "steps": last.steps + 1}
                    card = CardRecord(
                        **room.head(last.seq + 1),
                        parent=tip.card.id,
                        weights=BLOB,
                        resume=BLOB,
                        train_loss=0.1,
                        **numbers,
                    )
                    await outsider.publish(cards_topic(room.run.id), seal(liar, card).data)
                await asyncio.sleep(1 / 8)
            counts.append(owner.seq - before)
        return f"{counts[1]} tips in {FLOOD_S:.0f} s ({counts[0]} without the cards)"


async def tell(swarm: RealSwarm, key: Identity, record: Signed) -> Envelope[Any]:
    envelope = seal(key, record)
    await swarm.publish(cards_topic(record.run), envelope.data)
    await swarm.store_record(envelope)
    return envelope


def _far_away(swarm: Any) -> None:
    read = swarm.read_records

    async def slow(key: str, run: str) -> list[Envelope[Any]]:
        await asyncio.sleep(FAR_S)
        return list(await read(key, run))

    swarm.read_records = slow
