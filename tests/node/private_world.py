"""A private run on a fake network, and an outsider that sees every byte of it that leaves a peer."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from paris_p2p.crew_records import CrewSpec
from paris_p2p.envelope import Envelope, seal
from paris_p2p.identity import Identity
from paris_p2p.keyring import GateKey, Keyring, RunKey, save_keyring
from paris_p2p.node.membership import CERTIFICATE
from paris_p2p.owner_records import AnyChange, CertificateRecord, NoticeRecord, Right
from paris_p2p.peer.volunteer import Role
from paris_p2p.records import RequestKind
from paris_p2p.rules.chain import Notice
from paris_p2p.spec import GateSpec, RunSpec, TimingSpec, sign_run
from paris_p2p.store.ledger import Ledger
from paris_p2p.store.sealed_blobs import add_sealed
from paris_p2p.swarm.fake import FakeNetwork, FakeSwarm
from paris_p2p.swarm.seam import BlobSource, GossipHandler
from paris_p2p.veil import seal_record
from tests.peer.world import Peer, World, good_gate

MEMBER: tuple[Right, ...] = ("train", "attest", "generate")


class ObservedNetwork(FakeNetwork):
    """Keeps all that its peers say to it and to one another."""

    def __init__(self) -> None:
        super().__init__()
        self.wire: list[bytes] = []

    def join(
        self, identity: Identity, source: BlobSource | None = None, *, clock_offset_s: float = 0.0
    ) -> FakeSwarm:
        swarm = ObservedSwarm(self, identity.peer_id, source, clock_offset_s)
        self.swarms[identity.peer_id] = swarm
        return swarm

    def note(self, *said: str | bytes) -> None:
        self.wire += [one.encode() if isinstance(one, str) else bytes(one) for one in said]


class ObservedSwarm(FakeSwarm):
    """Is a peer of it."""

    network: ObservedNetwork

    async def store_record(self, envelope: Envelope[Any]) -> bool:
        self.network.note(envelope.data)
        return await super().store_record(envelope)

    async def read_records(self, key: str, run: str) -> list[Envelope[Any]]:
        self.network.note(key, run)
        return await super().read_records(key, run)

    async def publish(self, topic: str, data: bytes) -> None:
        self.network.note(topic, data)
        await super().publish(topic, data)

    async def subscribe(self, topic: str, handler: GossipHandler) -> None:
        self.network.note(topic)
        await super().subscribe(topic, handler)

    async def fetch_spec(self, peer: str, run_id: str) -> bytes:
        data = await super().fetch_spec(peer, run_id)
        self.network.note(run_id, data)
        return data

    async def fetch_records(self, peer: str, key: str) -> list[bytes]:
        self.network.note(key)
        found = await super().fetch_records(peer, key)
        self.network.note(*found)
        return found

    async def fetch_manifest(self, peer: str, blob_id: str) -> bytes:
        self.network.note(blob_id)
        data = await super().fetch_manifest(peer, blob_id)
        self.network.note(data)
        return data

    async def fetch_have(self, peer: str, blob_id: str) -> bytes:
        self.network.note(blob_id)
        return await super().fetch_have(peer, blob_id)

    async def fetch_chunks(
        self, peer: str, blob_id: str, indexes: Sequence[int], **more: Any
    ) -> AsyncGenerator[tuple[int, bytes | memoryview], None]:
        async for index, data in super().fetch_chunks(peer, blob_id, indexes, **more):
            self.network.note(bytes(data))
            yield index, data

    async def ask(self, peer: str, action: RequestKind, run: str, body: bytes) -> bytes:
        self.network.note(run, body)
        answer = await super().ask(peer, action, run, body)
        self.network.note(answer)
        return answer


class PrivateWorld(World):
    """Peers of one private run; the owner's key signs notices here, as it does from an owner's folder."""

    def __init__(
        self,
        root: Path,
        *,
        experts: int = 1,
        gate: GateSpec | None = None,
        timing: TimingSpec | None = None,
        crew: CrewSpec | None = None,
    ):
        self.owner, self.owner_node = Identity.generate(), Identity.generate()
        self.ring = Keyring((RunKey.generate(),), GateKey.generate())
        self.notices: list[Notice] = []
        super().__init__(
            root, experts=experts, gate=gate, crew=crew, **({"timing": timing} if timing else {})
        )
        self.network: ObservedNetwork = ObservedNetwork()

    def _make_run(self, experts: int, gate: GateSpec, timing: TimingSpec) -> Envelope[RunSpec]:
        plain = super()._make_run(experts, gate, timing).record

        def sealed(shards: Any, key: Any) -> Any:
            return tuple(
                shard.model_copy(
                    update={"blob": add_sealed(self.shards, self.shards.path(shard.blob.id), key)}
                )
                for shard in shards
            )

        assert self.ring.gate is not None
        changes = {
            "owner_node": self.owner_node.peer_id,
            "members_only": True,
            "private": True,
            "key_hash": self.ring.keys[0].hash,
            "gate": plain.gate.model_copy(update={"key_hash": self.ring.gate.hash}),
            "train_shards": sealed(plain.train_shards, self.ring.keys[0]),
            "gate_shards": sealed(plain.gate_shards, self.ring.gate),
        }
        return sign_run(self.owner, RunSpec.model_validate(plain.model_copy(update=changes).model_dump()))

    def notice(self, change: AnyChange) -> Notice:
        """Signs the run's next notice, sealed under the newest key that was named before it."""
        now = time.time()
        head = self.notices[-1].id if self.notices else self.run.id
        record = NoticeRecord(
            run=self.run.id,
            seq=len(self.notices) + 1,
            issued_at=now,
            expires_at=now + 86400.0,
            previous=head,
            change=change,
        )
        notice = seal_record(self.owner, record, self.ring, len(self.notices) + 1)
        self.notices.append(notice)
        return notice

    def admit(self, home: Path, identity: Identity, rights: tuple[Right, ...], keys: int = 1) -> None:
        """Leaves in a home what joining leaves there."""
        now = time.time()
        certificate = CertificateRecord(
            run=self.run.id,
            seq=1,
            issued_at=now,
            expires_at=now + 86400.0,
            peer=identity.peer_id,
            rights=rights,
        )
        folder = home / "runs" / self.run.id
        Ledger(folder / "ledger").put(CERTIFICATE, seal(self.owner, certificate).data)
        save_keyring(folder, self.ring.as_of(keys))

    async def add(
        self,
        name: str,
        *,
        role: Role = "peer",
        identity: Identity | None = None,
        gate: Any = good_gate,
        rights: tuple[Right, ...] = MEMBER,
        **more: Any,
    ) -> Peer:
        is_owners = role == "owner"
        identity = identity or (self.owner_node if is_owners else Identity.generate())
        home = self.root / name
        if is_owners and not (home / "runs").exists():
            save_keyring(home / "runs" / self.run.id, self.ring)
        elif not (home / "runs").exists():
            self.admit(home, identity, rights)
        return await super().add(name, role=role, identity=identity, gate=gate, **more)
