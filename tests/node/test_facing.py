"""The door: to those who may not see a run, each answer is what it would be if the run did not exist."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest

from paris_p2p.identity import Identity
from paris_p2p.kinds import claims_key, crews_key, members_key, notices_key, tips_key, updates_key
from paris_p2p.node.facing import join_name
from paris_p2p.node.run_node import RunNode
from paris_p2p.owner_records import Admit, Revoke, Right
from paris_p2p.swarm.blob_client import LENGTH, pack_head
from paris_p2p.swarm.blob_requests import OPERATIONS
from paris_p2p.swarm.blob_server import BlobServer
from paris_p2p.swarm.dial_back import DialBack
from paris_p2p.swarm.limits import Meter, RateLimit
from paris_p2p.swarm.line_aids import LineAids
from paris_p2p.veil import question_of
from tests.node.crew_world import CREW, SLOT, attested, crew_card, crew_update, solo_card, worker_record
from tests.node.members_world import MembersWorld
from tests.node.private_world import PrivateWorld
from tests.swarm.test_dial_back import Dialler

NOWHERE, FRIEND = "ef" * 32, Identity.generate().peer_id


@asynccontextmanager
async def answering(node: RunNode) -> AsyncIterator[Any]:
    """The answering side of a node's host, to which any peer may say anything."""

    async def where(peer: str) -> list[str]:
        return ["/ip4/192.0.2.7/tcp/4001"] if peer == FRIEND else []

    aids = LineAids(RateLimit(0), Meter(), DialBack(Dialler().opened))
    server = BlobServer(node.host, where, Meter(), RateLimit(0), clock=lambda: 1e9, aids=aids)

    async def say(peer: str, request: dict[str, Any]) -> bytes:
        here, there = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=here)
        there.setblocking(False)
        loop, answer = asyncio.get_running_loop(), b""
        await loop.sock_sendall(there, pack_head(request))
        there.shutdown(socket.SHUT_WR)
        handling = asyncio.create_task(server.handle(peer, "/ip4/127.0.0.1/tcp/1", reader, writer))
        await handling
        while data := await loop.sock_recv(there, 1 << 16):
            answer += data
        there.close()
        return answer

    try:
        yield say
    finally:
        await server.close()


def requests_about(
    node: RunNode, run: str, keys: list[str], blobs: list[str], friend: str
) -> list[dict[str, Any]]:
    """Every request that names a run, a key, a blob or a peer; as a peer of the first version asks, and with
    the run's name.
    """
    joins = join_name(run, node.peer_id)
    plain: list[dict[str, Any]] = [{"op": "where", "peer": friend}, {"op": "spec", "run": run}]
    plain += [{"op": "records", "key": key} for key in keys]
    for blob in blobs:
        plain += [{"op": op, "blob": blob} for op in ("manifest", "have")]
        plain += [{"op": "chunks", "blob": blob, "indexes": [0, 1]}]
    plain += [{"op": "join", "run": joins, "body": b"\x80"}]
    plain += [{"op": op, "run": run, "body": b""} for op in ("hello", "key", "stock", "history")]
    plain += [{"op": "dial", "tcp": 4001}, {"op": "take", "size": 4}]
    return plain + [request | {"run": run} for request in plain if "run" not in request]


def asked_of(node: RunNode) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The requests about a run, and the same about one that does not exist."""
    spec, ring = node.spec, node.keys.ring

    def keys(run: str) -> list[str]:
        plain = [
            claims_key(run, "expert-0"),
            tips_key(run, "expert-0"),
            crews_key(run, "expert-0"),
            updates_key(run, "expert-0"),
            members_key(run),
            notices_key(run, 1),
        ]
        return [question_of(ring, key) for key in plain] if spec.private and run == node.run else plain

    blobs = [shard.blob.id for shard in (*spec.train_shards, *spec.gate_shards)]
    blobs += sorted({id for slot in node.board.slots for id in node.board.update_blobs(slot)})
    here = requests_about(node, node.public_id, keys(node.run), blobs, FRIEND)
    there = requests_about(
        node, NOWHERE, keys(NOWHERE), ["12" * 32] * len(blobs), Identity.generate().peer_id
    )
    return here, there


async def opened_world(kind: str, folder: Path, stack: Any) -> tuple[RunNode, Any]:
    if kind == "members":
        world = await stack.enter_async_context(MembersWorld(folder, CREW))
        node = await world.owners_node()
        await crew_update(node, "cd" * 32)
        return node, world
    private = await stack.enter_async_context(PrivateWorld(folder, crew=CREW))
    node = (await private.add("owner", role="owner")).node
    await crew_update(node, "cd" * 32)
    return node, private


@pytest.mark.parametrize("kind", ["members", "private"])
async def test_a_stranger_gets_byte_for_byte_what_it_gets_for_a_run_that_does_not_exist(
    kind: str, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        node, _ = await opened_world(kind, tmp_path, stack)
        here, there = asked_of(node)
        assert {request["op"] for request in here} == set(OPERATIONS) - {"clock"}
        async with answering(node) as say:
            for real, made_up in zip(here, there, strict=True):
                stranger = Identity.generate().peer_id
                assert await say(stranger, real) == await say(stranger, made_up), real["op"]


@pytest.mark.parametrize("kind", ["members", "private"])
async def test_a_revoked_member_is_a_stranger_again_and_before_it_was_answered(
    kind: str, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        node, world = await opened_world(kind, tmp_path, stack)
        member = Identity.generate().peer_id
        rights: tuple[Right, ...] = ("train", "attest", "generate", "store")
        node.keep(world.notice(Admit(peer=member, rights=rights)))
        here, there = asked_of(node)
        async with answering(node) as say:
            pairs = list(zip(here, there, strict=True))
            served = [await say(member, real) != await say(member, none) for real, none in pairs]
            assert served.count(True) > len(served) / 2
            node.keep(world.notice(Revoke(peer=member)))
            for real, made_up in zip(*asked_of(node), strict=True):
                assert await say(member, real) == await say(member, made_up), real["op"]


async def test_the_time_is_told_to_a_stranger_and_nothing_is_ever_refused_for_what_a_run_is(
    tmp_path: Path,
) -> None:
    async with MembersWorld(tmp_path) as world:
        node = await world.owners_node()
        async with answering(node) as say:
            stranger = Identity.generate().peer_id
            answer = await say(stranger, {"op": "clock"})
            assert msgpack.unpackb(answer[LENGTH.size :]) == {"ok": True, "time": 1e9}
            for request in asked_of(node)[0]:
                assert b"refused" not in await say(Identity.generate().peer_id, request)


async def test_a_generator_gets_no_gate_clips_and_an_attestor_does(tmp_path: Path) -> None:
    async with MembersWorld(tmp_path) as world:
        node = await world.owners_node()
        generator, attestor = (Identity.generate().peer_id for _ in range(2))
        node.keep(world.notice(Admit(peer=generator, rights=("generate",))))
        node.keep(world.notice(Admit(peer=attestor, rights=("attest",))))
        gate, train = node.spec.gate_shards[0].blob.id, node.spec.train_shards[0].blob.id
        async with answering(node) as say:
            missing = await say(generator, {"op": "manifest", "blob": "12" * 32})
            assert await say(generator, {"op": "manifest", "blob": gate}) == missing
            assert await say(generator, {"op": "manifest", "blob": train}) != missing
            assert await say(attestor, {"op": "manifest", "blob": gate}) != missing


async def test_updates_and_rounds_are_for_those_who_train_attest_or_store_and_not_for_who_generates(
    tmp_path: Path,
) -> None:
    async with MembersWorld(tmp_path, CREW) as world:
        node, attestor = await world.owners_node(), Identity.generate()
        node.keep(world.notice(Admit(peer=attestor.peer_id, rights=("attest",))))
        signer = await world.open(world.host("attestor", attestor))
        signer.keep_all(world.notices)
        base = await attested(signer, await solo_card(node))
        waits = await crew_update(node, base.id)
        card = await attested(signer, await crew_card(node, [await crew_update(node, base.id)]))
        await node.refresh([SLOT])
        assert (tip := node.board.tip(SLOT)) is not None
        assert tip.card.id == card.id
        await node.say(worker_record(node))
        (merged,) = (ref for ref in node.rounds.refs(card.record)[3:])
        blobs = (card.record.rounds[0].id, merged.id, waits.record.blob.id)
        rights: tuple[Right, ...] = ("train", "attest", "store", "generate")
        peers = {right: Identity.generate().peer_id for right in rights}
        for right, peer in peers.items():
            node.keep(world.notice(Admit(peer=peer, rights=(right,))))
        async with answering(node) as say:
            missing = await say(peers["generate"], {"op": "manifest", "blob": "12" * 32})
            for blob in blobs:
                for right, peer in peers.items():
                    answer = await say(peer, {"op": "manifest", "blob": blob})
                    assert (answer == missing) == (right == "generate"), right
            weights = {"op": "manifest", "blob": card.record.weights.id}
            assert await say(peers["generate"], weights) != missing
            for key in (crews_key(node.run, SLOT), updates_key(node.run, SLOT)):
                told = [await say(peer, {"op": "records", "key": key}) for peer in peers.values()]
                assert min(map(len, told)) > 200


@pytest.mark.parametrize("kind", ["members", "private"])
async def test_a_strangers_question_looks_up_nothing_of_the_run(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it takes as long as one about nothing, whatever the run holds."""
    async with AsyncExitStack() as stack:
        node, _ = await opened_world(kind, tmp_path, stack)
        here, _ = asked_of(node)
        looked_up: list[str] = []
        for owner, name in (
            (node.host.store, "manifest_bytes"),
            (node.host.store, "have"),
            (node.host.store, "read_chunk"),
            (node, "serves"),
            (node, "things"),
            (node, "records_under"),
        ):
            monkeypatch.setattr(owner, name, lambda *_, name=name: looked_up.append(name))
        async with answering(node) as say:
            for request in here:
                await say(Identity.generate().peer_id, request)
            assert looked_up == []
            await say(node.state.signed.owner_node, here[2])
            assert looked_up == ["records_under"]
