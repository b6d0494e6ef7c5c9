"""A crew of a private run: members merge updates, and an outsider that sees every byte finds nothing."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from examples.studio.needles import Needle, Search, content_needle, hash_needle, text_needle
from paris_p2p.envelope import Envelope, decode, parse
from paris_p2p.errors import MissingKeyError
from paris_p2p.identity import Identity
from paris_p2p.keyring import Keyring, RunKey
from paris_p2p.kinds import crews_key, updates_key
from paris_p2p.node.crew_shelf import CrewShelf
from paris_p2p.node.run_node import RunNode, opened
from paris_p2p.node.stock import stock_answer
from paris_p2p.owner_records import StockList
from tests.node.crew_world import (
    CREW,
    SLOT,
    attested,
    crew_card,
    crew_update,
    host_in,
    solo_card,
    worker_record,
)
from tests.node.private_world import MEMBER, PrivateWorld


async def member(world: PrivateWorld, name: str, stack: AsyncExitStack) -> RunNode:
    identity = Identity.generate()
    world.admit(world.root / name, identity, MEMBER)
    return await stack.enter_async_context(opened(host_in(world, name, identity), world.run))


async def meet(*nodes: RunNode) -> None:
    for one in nodes:
        await one.membership.greet_connected(anew=True)
    for one in nodes:
        await one.membership.read()


def needles(updates: list[Envelope], rounds: list[str]) -> list[Needle]:
    """What the crew's records, updates and rounds say."""
    found = [text_needle("word", word) for word in ("joined_at", "first_clip", "lineage", "counted", SLOT)]
    for one in updates:
        found.append(hash_needle("update", one.id[:16], bytes.fromhex(one.id)))
        found.append(hash_needle("base", one.id[:16], bytes.fromhex(one.record.base)))
    found += [hash_needle("state", merged[:16], bytes.fromhex(merged)) for merged in rounds]
    return [*found, content_needle("update", "update", b"update expert-0")]


async def test_members_merge_updates_while_an_outsider_finds_nothing(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        world = PrivateWorld(tmp_path, crew=CREW)
        lead, worker, other = [await member(world, name, stack) for name in ("lead", "worker", "other")]
        await meet(lead, worker, other)
        base = await attested(other, await solo_card(lead))
        await worker.say(worker_record(worker))
        update = await crew_update(worker, base.id)
        await lead.fetch_update(update)
        card = await attested(other, await crew_card(lead, [update]))
        for node in (lead, worker, other):
            await node.refresh([SLOT])
            await node.ask_connected()
        await other.fetch_card(card)
        assert other.rounds.is_whole(card.record)
        assert [one.signer for one in other.board.workers(SLOT)] == [worker.peer_id]
        assert [one.id for one in other.board.updates(SLOT)] == [update.id]
        for key in (crews_key(world.run.id, SLOT), updates_key(world.run.id, SLOT)):
            assert await other.swarm.read(key)
            assert await other.swarm.ask_records(worker.peer_id, key)
        wire = b"\n".join(world.network.wire)
        search = Search(needles([update], [card.record.merged]))
        assert len(wire) > 10_000
        assert search.found_in(wire) == set()
        held = world.network.board
        assert {subkey.rpartition(":")[2] for kept in held.values() for subkey in kept} == {"sealed"}
        files = [other.host.store.path(ref.id) for ref in other.rounds.refs(card.record)]
        assert search.found_in(b"\n".join(path.read_bytes() for path in files)) == set()
        plain = other.blobs.read(card.record.rounds[0])
        assert {needle.kind for needle in search.found_in(plain + update.payload)} >= {"word", "base"}
        body = await stock_answer(other, b"")
        assert body is not None
        stocked = {(one.thing, one.blob.id) for one in parse(StockList, decode(body)).blobs}
        assert {("resume", ref.id) for ref in (*card.record.rounds, update.record.blob)} <= stocked


async def test_a_round_whose_key_is_not_here_yet_has_nothing_deleted(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        world = PrivateWorld(tmp_path, crew=CREW)
        lead, worker, other = [await member(world, name, stack) for name in ("lead", "worker", "other")]
        await meet(lead, worker, other)
        base = await attested(worker, await solo_card(lead))
        update = await crew_update(worker, base.id)
        await lead.fetch_update(update)
        card = await attested(worker, await crew_card(lead, [update]))
        await other.refresh([SLOT])
        refs = await other.fetch_card(card)
        ring, other.keys.ring = other.keys.ring, Keyring((RunKey.generate(),), None)
        other.rounds._known.clear()
        with pytest.raises(MissingKeyError):
            other.rounds.open(card.record.rounds[0], SLOT)
        other.board.slots[SLOT].crew = CrewShelf()
        await other.forget_superseded()
        assert other.host.store.has(update.record.blob.id)
        other.keys.ring = ring
        assert other.rounds.is_whole(card.record)
        await other.forget_superseded()
        assert not other.rounds.locked
        assert all(other.host.store.has(ref.id) for ref in refs)


async def test_a_round_that_no_key_opens_keeps_nothing_once_it_is_no_tips(tmp_path: Path) -> None:
    """A member can sign a card whose round is sealed under a key that nobody has."""
    async with AsyncExitStack() as stack:
        world = PrivateWorld(tmp_path, crew=CREW)
        lead, other = [await member(world, name, stack) for name in ("lead", "other")]
        await meet(lead, other)
        first = await attested(other, await solo_card(lead))
        await other.fetch_card(first)
        other.rounds.locked.add("ab" * 32)  # of a card that waits, or did
        for _ in range(3):
            await attested(other, await solo_card(lead))
        await other.forget_superseded()
        assert not other.host.store.has(first.record.weights.id)
