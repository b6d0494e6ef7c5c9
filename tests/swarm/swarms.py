"""What the swarm tests share: a source of blobs, signed records, and the two kinds of network behind one
face.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

from paris_p2p.envelope import Envelope, seal
from paris_p2p.errors import MissingBlobError
from paris_p2p.identity import Identity
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.records import AttestationRecord, BlobRef, CardRecord, ClaimRecord
from paris_p2p.swarm.fake import FakeNetwork
from paris_p2p.swarm.seam import BlobSource, Swarm

RUN = "ab" * 32
BLOB = "cd" * 32
STRANGER = Identity.generate()
CHUNKS = [bytes([number]) * (1 << 18) for number in range(5)] + [b"end"]


class Source:
    """Serves one blob of six chunks, of which number 3 is not here; chunk 100 never comes."""

    def __init__(self, *, allowed: bool = True, records: tuple[bytes, ...] = ()):
        self.allowed, self.known = allowed, list(records)
        self.stalled = threading.Event()
        self.doors: list[tuple[str, str, str, str]] = []  # what `shown_to` was asked

    def shown_to(self, peer: str, action: str, run: str, thing: str, /) -> Source | None:
        self.doors.append((peer, action, run, thing))
        return self if self.allowed else None

    def tells_where(self) -> bool:
        return True

    async def converse(self, action: str, run: str, body: bytes, /) -> bytes | None:
        return action.encode() + b" " + body if run == RUN else None

    def knows(self, peer: str, /) -> bool:
        return False

    def spec(self, run_id: str, /) -> bytes | None:
        return b"a spec" if run_id == RUN else None

    def manifest_bytes(self, blob_id: str, /) -> bytes | None:
        return b"a manifest" if blob_id == BLOB else None

    def have(self, blob_id: str, /) -> bytes:
        return b"\x37" if blob_id == BLOB else b""

    def read_chunk(self, blob_id: str, index: int, room: memoryview | None = None, /) -> bytes | memoryview:
        if index == 100:
            self.stalled.wait(20)
        if blob_id != BLOB or index == 3 or index >= len(CHUNKS):
            raise MissingBlobError(f"no chunk {index}")
        data = CHUNKS[index]
        if room is None or len(room) < len(data):
            return data
        room[: len(data)] = data
        return room[: len(data)]

    def records(self, key: str, /) -> list[bytes]:
        return self.known


def claim(
    signer: Identity, seq: int, *, run: str = RUN, slot: str = "expert-0", lifetime_s: float = 100.0
) -> Envelope[Any]:
    now = time.time()
    record = ClaimRecord(
        run=run, slot=slot, seq=seq, issued_at=now, expires_at=now + lifetime_s, epoch=1, claimed_at=now
    )
    return seal(signer, record)


def stray(
    run: str = "", signer: Identity = STRANGER, *, slot: str = "expert-0", lifetime_s: float = 3000.0
) -> Envelope[Any]:
    """A claim, validly signed; of a run that nobody knows, unless one is named."""
    return claim(signer, 1, run=run or os.urandom(32).hex(), slot=slot, lifetime_s=lifetime_s)


def card(signer: Identity, seq: int, epoch: int = 1) -> Envelope[Any]:
    now, blob = time.time(), BlobRef(id=BLOB, size_bytes=3)
    record = CardRecord(
        run=RUN, slot="expert-0", seq=seq, issued_at=now, expires_at=now + 500, epoch=epoch,
        weights=blob, resume=blob, clips=1, steps=1, train_loss=1.0,
    )  # fmt: skip
    return seal(signer, record)


def attestation(signer: Identity, of: Envelope[Any]) -> Envelope[Any]:
    now = time.time()
    record = AttestationRecord(
        run=RUN,
        slot="expert-0",
        seq=of.record.seq,
        epoch=of.record.epoch,
        issued_at=now,
        expires_at=now + 500,
        card=of.id,
        loss=1.0,
        reference_loss=1.0,
        best=of.id,
        gate_clips=8,
    )
    return seal(signer, record)


class Network(Protocol):
    """A network of either kind, in which a test may also be a node that lies."""

    async def join(self, identity: Identity | None = None, source: BlobSource | None = None) -> Swarm: ...

    async def plant(self, key: str, subkey: str, expires_at: float, data: bytes) -> None:
        """Have a node that checks nothing hold this entry and hand it out."""
        ...


class InMemory:
    def __init__(self) -> None:
        self.network = FakeNetwork()

    async def join(self, identity: Identity | None = None, source: BlobSource | None = None) -> Swarm:
        return self.network.join(identity or Identity.generate(), source)

    async def plant(self, key: str, subkey: str, expires_at: float, data: bytes) -> None:
        self.network.put_raw(key, subkey, expires_at, data)


class OnLoopback:
    """Real daemons; the first to join is everybody's bootstrap peer."""

    def __init__(self, folder: Path, stack: AsyncExitStack):
        self.folder, self.stack = folder, stack
        self.swarms: list[Any] = []
        self._liar: Any = None

    def settings(self) -> PeerSettings:
        return PeerSettings(data_dir=self.folder / str(len(self.swarms)), host="127.0.0.1")

    async def join(self, identity: Identity | None = None, source: BlobSource | None = None) -> Swarm:
        from paris_p2p.swarm.real import open_swarm

        bootstrap = self.swarms[0].addresses() if self.swarms else ()
        opened = open_swarm(
            identity or Identity.generate(), self.settings(), bootstrap_peers=bootstrap, source=source
        )
        self.swarms.append(await self.stack.enter_async_context(opened))
        return self.swarms[-1]

    async def plant(self, key: str, subkey: str, expires_at: float, data: bytes) -> None:
        from hivemind.dht.routing import DHTID
        from hivemind.utils import MSGPackSerializer

        if self._liar is None:
            self._liar = await self._open_liar()
        self._liar.protocol.storage.store(
            DHTID.generate(source=key), MSGPackSerializer.dumps(data), expires_at, subkey=subkey
        )
        await self._liar.store(key, data, expires_at, subkey=subkey)

    async def _open_liar(self) -> Any:
        from hivemind.dht.node import DHTNode
        from hivemind.p2p import P2P
        from hivemind.utils.multiaddr import Multiaddr

        liar: Any = await self.join()
        p2p = await P2P.replicate(Multiaddr(f"/unix{liar._keeper.link.daemon.control}"))
        # its handlers make place for those of a node without validator
        await liar._keeper.link.board._node.shutdown()
        node = await DHTNode.create(p2p=p2p, node_id=liar._keeper.link.board._node.node_id)
        self.stack.push_async_callback(p2p.shutdown)
        for swarm in self.swarms[:-1]:
            await node.protocol.call_ping(p2p.peer_id.from_base58(swarm.peer_id))
        return node
