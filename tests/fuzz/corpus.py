"""Every decoder that strangers reach, with good inputs to damage.

`test_decoders.py` runs them briefly, `bench/fuzz.py` for long. A decoder may refuse with an error of the
project's own, and must neither raise another, nor hang, nor take much memory.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import torch
from blake3 import blake3
from google.protobuf.message import DecodeError
from hivemind.dht.routing import DHTID
from hivemind.p2p.p2p_daemon_bindings.datastructures import PeerID
from hivemind.proto import dht_pb2 as pb
from hivemind.proto import p2pd_pb2
from hivemind.utils import MSGPackSerializer

from paris_p2p.data.clips import ClipSet
from paris_p2p.data.shards import Sample, write_shards
from paris_p2p.envelope import open_envelope, seal
from paris_p2p.errors import ParisError
from paris_p2p.identity import Identity
from paris_p2p.invite import Invite
from paris_p2p.kinds import dht_key
from paris_p2p.model.checkpoint import check_weights, counters_of, load_initial_into, write_initial
from paris_p2p.records import (
    AttestationRecord,
    BlobRef,
    CardRecord,
    ClaimRecord,
    HolderRecord,
    Manifest,
    PeerRecord,
    Signed,
)
from paris_p2p.rules.chunks import chunks_of
from paris_p2p.spec import open_run
from paris_p2p.swarm import addresses, blob_client, p2pd
from paris_p2p.swarm.entries import BoardEntry, open_entries, pack_dictionary
from paris_p2p.swarm.parcels import keep_own_id, keep_own_nearest, node_id_of, read_found, read_store
from paris_p2p.swarm.storage import RecordStorage, StorageLimits
from paris_p2p.swarm.verified import RecordView, open_stored, subkey_of
from tests.fuzz import mutants
from tests.fuzz.crew_corpus import crew_decoders, crew_kinds
from tests.fuzz.decoder import Decoder
from tests.peer.world import World

RUN, WHO, NOW = "ab" * 32, Identity.generate(), time.time()


def decoders(folder: Path) -> list[Decoder]:
    """All of them; files are written into `folder`."""
    for name in ("shards", "run"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    crews = crew_decoders(folder / "crew")
    return [*_records(), *_specs(folder), *_dht(), *_streams(), *_files(folder), *crews]


def _records() -> list[Decoder]:
    sealed = [seal(WHO, record) for record in _every_kind()]
    seeds, payloads = [e.data for e in sealed], [msgpack.unpackb(e.payload) for e in sealed]
    manifests = [
        Manifest(size_bytes=size, chunks=(bytes(32),) * -(-size // (1 << 20))).to_bytes()
        for size in (1, 5 << 20)
    ]

    def signed(rng: random.Random) -> bytes:
        """A payload that its signer changed: the signature holds, and what is behind it is reached."""
        number = rng.randrange(len(sealed))
        kind, payload = sealed[number].record.kind, mutants.of_msgpack(rng, [payloads[number]])
        return _signed(kind, RUN, payload)

    def remember(data: bytes) -> None:
        envelope = open_envelope(data, run=RUN)
        view = RecordView()
        view.merge(
            dht_key(envelope.record), RUN, [(subkey_of(envelope), envelope.record.expires_at, data)], NOW
        )

    return [
        Decoder(
            "envelope",
            lambda rng: mutants.of_bytes(rng, seeds),
            lambda data: open_envelope(data, run=RUN),
            share=8,
        ),
        Decoder("signed record", signed, remember, share=8),
        Decoder("stored record", signed, open_stored),
        Decoder(
            "manifest",
            lambda rng: mutants.of_bytes(rng, manifests),
            lambda data: Manifest.from_bytes(data, blake3(data).hexdigest()),
        ),
        Decoder(
            "have-set",
            lambda rng: rng.randbytes(rng.randrange(300)),
            lambda data: chunks_of(data, 1000),
            share=1,
        ),
    ]


def _specs(folder: Path) -> list[Decoder]:
    run = World(folder / "run").run
    payload = {**msgpack.unpackb(run.payload), "owner": WHO.peer_id_bytes}
    invites = [
        str(Invite(run=RUN, peers=(f"/ip4/1.2.3.4/tcp/5/p2p/{WHO.peer_id}",) * n)).encode() for n in (0, 1, 3)
    ]

    def signed(rng: random.Random) -> bytes:
        changed = mutants.of_msgpack(rng, [payload])
        return _signed("run", "", changed)

    return [
        Decoder("RunSpec", lambda rng: mutants.of_bytes(rng, [run.data]), open_run, share=1),
        Decoder("signed RunSpec", signed, open_run),
        Decoder(
            "invite",
            lambda rng: mutants.of_bytes(rng, invites).decode("utf-8", "surrogateescape"),
            lambda text: str(Invite.parse(text)),
        ),
    ]


def _dht() -> list[Decoder]:
    sealed = [seal(WHO, record) for record in _every_kind()]
    entries = [BoardEntry(_key_of(e.record), subkey_of(e), e.data, e.record.expires_at) for e in sealed]
    packed = [pack_dictionary([entry])[0] for entry in entries]
    store = pb.StoreRequest(
        keys=[entry.key for entry in entries] * 2,
        subkeys=[MSGPackSerializer.dumps(entry.subkey) for entry in entries] + [b""] * len(packed),
        values=[MSGPackSerializer.dumps(entry.data) for entry in entries] + packed,
        expiration_time=[entry.expires_at for entry in entries] * 2,
        in_cache=[False] * (2 * len(entries)),
        peer=pb.NodeInfo(node_id=node_id_of(WHO.peer_id_bytes).to_bytes()),
    ).SerializeToString()
    found = [
        pb.FindResult(
            type=pb.FOUND_DICTIONARY, value=data, expiration_time=9e9,
            nearest_node_ids=[node_id_of(WHO.peer_id_bytes).to_bytes()], nearest_peer_ids=[WHO.peer_id_bytes],
        )
        for data in packed
    ]  # fmt: skip
    answer = pb.FindResponse(results=found).SerializeToString()
    view, me = RecordView(), PeerID(WHO.peer_id_bytes)

    def stored(data: bytes) -> None:
        request = pb.StoreRequest.FromString(data)
        keep_own_id(request, me)
        if len(request.keys) == len(request.subkeys) == len(request.values) == len(request.expiration_time):
            numbered = read_store(request)
            opened = open_entries(view, [entry for _, entry in numbered])
            held = RecordStorage(StorageLimits(), view.refused)
            for (_, entry), envelope in zip(numbered, opened, strict=True):
                if envelope is not None:
                    key = DHTID.from_bytes(entry.key)
                    held.store_subkey(
                        key, entry.subkey, MSGPackSerializer.dumps(entry.data), entry.expires_at
                    )

    def answered(data: bytes) -> None:
        for result in pb.FindResponse.FromString(data).results:
            keep_own_nearest(result)
            numbered = read_found(entries[0].key, result.value)
            kept = [entry for _, entry in numbered]
            open_entries(view, kept)
            if kept:
                MSGPackSerializer.loads(pack_dictionary(kept)[0])

    def dictionary(rng: random.Random) -> bytes:
        kind = rng.choice((0x50, 0x50, 0x50, 0x40, 0x00))
        items = [[entry.subkey, MSGPackSerializer.dumps(entry.data), entry.expires_at] for entry in entries]
        inner = mutants.of_msgpack(rng, [[float("inf"), 9e9, items]])
        result = pb.FindResult(type=pb.FOUND_DICTIONARY, value=msgpack.packb(msgpack.ExtType(kind, inner)))
        return pb.FindResponse(results=[result]).SerializeToString()

    errors = (ParisError, DecodeError)
    asked = pb.FindRequest(keys=[bytes(20)] * 3, peer=pb.NodeInfo(node_id=bytes(20))).SerializeToString()
    return [
        Decoder("DHT store", lambda rng: mutants.of_bytes(rng, [store]), stored, errors),
        Decoder("DHT answer", lambda rng: mutants.of_bytes(rng, [answer]), answered, errors),
        Decoder("DHT dictionary", dictionary, answered, errors, share=8),
        Decoder(
            "DHT question",
            lambda rng: mutants.of_bytes(rng, [asked]),
            lambda data: keep_own_id(pb.FindRequest.FromString(data), me),
            errors,
        ),
    ]


def _streams() -> list[Decoder]:
    heads = [
        blob_client.pack_head(head)
        for head in (
            {"op": "chunks", "blob": RUN, "indexes": list(range(64))},
            {"op": "records", "key": "paris/1/x", "run": RUN},
            {"ok": True, "size": 5},
            {"ok": False, "error": "busy"},
            {"ok": True, "addresses": ["/ip4/1.2.3.4/tcp/5"]},
        )
    ]
    records = [msgpack.packb([seal(WHO, record).data for record in _every_kind()])]
    message = p2pd_pb2.PSMessage(data=b"x" * 40, seqno=b"1", topicIDs=["a"], signature=b"s", key=b"k")
    setattr(message, "from", WHO.peer_id_bytes)
    framed = [p2pd._varint(len(data)) + data for data in (message.SerializeToString(),)]
    where = [
        addresses.to_bytes(f"/ip4/1.2.3.4/tcp/5/p2p/{WHO.peer_id}"),
        addresses.to_bytes("/dns4/a.example/udp/6/quic-v1"),
    ]

    def head(data: bytes) -> None:
        _now(blob_client.read_map(_Bytes(data), WHO.peer_id))  # type: ignore[arg-type]

    def gossip(data: bytes) -> None:
        _now(p2pd._read(_Bytes(data), p2pd_pb2.PSMessage()))  # type: ignore[arg-type]

    cut = (ParisError, asyncio.IncompleteReadError)
    return [
        Decoder("stream head", lambda rng: mutants.of_bytes(rng, heads), head, cut),
        Decoder(
            "list of records",
            lambda rng: mutants.of_bytes(rng, records),
            lambda data: blob_client._unpack(data, "peer"),
        ),
        Decoder("gossip", lambda rng: mutants.of_bytes(rng, framed), gossip, cut),
        Decoder("address", lambda rng: mutants.of_bytes(rng, where), addresses.to_text),
        Decoder(
            "written address",
            lambda rng: mutants.of_bytes(rng, [addresses.to_text(data).encode() for data in where]).decode(
                "latin-1"
            ),
            lambda text: (addresses.to_bytes(text), addresses.split_peer(text)),
        ),
    ]


def _files(folder: Path) -> list[Decoder]:
    sample = Sample(
        key="0", latent=np.zeros((4, 2, 2, 2), np.float16), tokens=np.zeros((2, 3), np.float16),
        mask=np.ones(2, np.uint8), pooled=np.zeros(3, np.float16),
        info={"caption": "a cat", "source": "x", "cluster": 0},
    )  # fmt: skip
    (shard,) = write_shards(folder / "shards", "train", 0, [sample], 1 << 20)
    tar = (folder / shard.path).read_bytes()
    tensors = {"a": torch.zeros(2, 3), "b": torch.zeros(4)}
    write_initial(folder / "initial.safetensors", tensors, torch.float32)
    weights = (folder / "initial.safetensors").read_bytes()
    odd = [
        tar.replace(b'"a cat"', text.ljust(7)[:7])
        for text in (b"[[[[]]]", b"null   ", b'"\\ud8"', b"1e999  ")
    ]

    def read_shard(data: bytes) -> None:
        path = folder / "fuzzed.tar"
        path.write_bytes(data)
        clips = ClipSet([path], [0])
        for index in range(len(clips)):
            _ = clips[index]

    def read_weights(data: bytes) -> None:
        path = folder / "fuzzed.safetensors"
        path.write_bytes(data)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        for read in (
            lambda: counters_of(path),
            lambda: check_weights(path, shapes, None),
            lambda: load_initial_into(path, tensors),
        ):
            try:
                read()
            except ParisError:
                continue

    return [
        Decoder("shard", lambda rng: _damaged(rng, [tar, *odd]), read_shard, share=1),
        Decoder(
            "weights", lambda rng: mutants.of_bytes(rng, [weights, weights[:600]]), read_weights, share=1
        ),
    ]


def _damaged(rng: random.Random, tars: list[bytes]) -> bytes:
    """Of a tar, one block is changed, its sum mostly made right again, so that more is reached."""
    data = bytearray(rng.choice(tars))
    at = rng.randrange(len(data) // 512) * 512
    block = mutants.of_bytes(rng, [bytes(data[at : at + 512])])[:512].ljust(512, b"\0")
    if rng.random() < 0.7 and block[257:262] == b"ustar":
        total = sum(block[:148]) + 8 * 32 + sum(block[156:])
        block = block[:148] + f"{total:06o}\0 ".encode() + block[156:]
    data[at : at + 512] = block
    return bytes(data)


def _every_kind() -> list[Signed]:
    blob, header = (
        BlobRef(id=RUN, size_bytes=3),
        {"run": RUN, "seq": 1, "issued_at": NOW, "expires_at": NOW + 500},
    )
    slot = {**header, "slot": "expert-0", "epoch": 1}
    return [
        ClaimRecord(**slot, claimed_at=NOW),
        CardRecord(**slot, weights=blob, resume=blob, clips=1, steps=1, train_loss=1.0),
        AttestationRecord(**slot, card=RUN, loss=1.0, reference_loss=1.0, best=RUN, gate_clips=8),
        HolderRecord(**header, what=RUN),
        PeerRecord(**header, role="peer"),
        *crew_kinds(),
    ]


def _key_of(record: Signed) -> bytes:
    return DHTID.generate(source=dht_key(record)).to_bytes()


def _signed(kind: str, run: str, payload: bytes) -> bytes:
    """An envelope whose signature holds, whatever is in it (docs/protocol.md)."""
    signature = WHO.sign(b"paris-p2p/1\0" + kind.encode() + b"\0" + run.encode() + b"\0" + payload)
    packed: bytes = msgpack.packb((payload, WHO.peer_id_bytes, signature))
    return packed


class _Bytes:
    """A stream that has these bytes, and ends."""

    def __init__(self, data: bytes):
        self._data, self._at = data, 0

    async def readexactly(self, count: int) -> bytes:
        part = self._data[self._at : self._at + count]
        self._at += count
        if len(part) < count:
            raise asyncio.IncompleteReadError(part, count)
        return part


def _now(reading: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine gives that waits for nothing."""
    try:
        reading.send(None)
    except StopIteration as end:
        return end.value
    finally:
        reading.close()
    raise AssertionError("it waits for something")
