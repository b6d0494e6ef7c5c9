"""A bootstrap node copies a crew's cards and the updates for the next ones, and lets go of both."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from paris_p2p.crew_records import UpdateRecord
from paris_p2p.envelope import Envelope, seal
from paris_p2p.identity import Identity
from paris_p2p.node.run_node import RunNode, opened
from tests.bootstrap.test_serve import mirroring
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
from tests.peer.world import Peer, World


async def tip_at(world: World, node: RunNode, card: str) -> None:
    await world.until(lambda: (tip := node.board.tip(SLOT)) is not None and tip.card.id == card)


async def test_a_bootstrap_node_copies_rounds_and_updates_and_forgets_them_after_the_next_full_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(World(tmp_path, crew=CREW))
        lead, worker = [
            await stack.enter_async_context(opened(host_in(world, name), world.run))
            for name in ("lead", "worker")
        ]
        base = await attested(worker, await solo_card(lead))
        known = cast(Peer, SimpleNamespace(node=lead))
        mirror = await stack.enter_async_context(mirroring(world, known, monkeypatch))
        await tip_at(world, mirror, base.id)
        has = mirror.host.store.has
        await worker.say(worker_record(worker))
        update = await crew_update(worker, base.id)
        await world.until(lambda: has(update.record.blob.id))  # before any card names it
        await lead.fetch_update(update)
        card = await attested(worker, await crew_card(lead, [update]))
        await world.until(lambda: mirror.rounds.is_whole(card.record))
        names = [ref.id for ref in mirror.rounds.refs(card.record)]
        last = card
        for number, full in ((1, True), (2, False), (3, False)):
            more = await crew_update(worker, last.id, 8 * number)
            await lead.fetch_update(more)
            last = await attested(worker, await crew_card(lead, [more], full=full))
            await tip_at(world, mirror, last.id)
            await world.until(lambda card=last: mirror.rounds.is_whole(card.record))  # type: ignore[misc]
        await world.until(lambda: not any(map(has, names)))
        assert mirror.rounds.is_whole(last.record)
        assert mirror.board.contributors(SLOT) == {worker.peer_id}


async def test_an_update_of_a_maker_that_left_is_had_from_the_bootstrap_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(World(tmp_path, crew=CREW))
        lead, worker = [
            await stack.enter_async_context(opened(host_in(world, name), world.run))
            for name in ("lead", "worker")
        ]
        base = await attested(worker, await solo_card(lead))
        known = cast(Peer, SimpleNamespace(node=lead))
        mirror = await stack.enter_async_context(mirroring(world, known, monkeypatch))
        await tip_at(world, mirror, base.id)
        await worker.say(worker_record(worker))
        update = await crew_update(worker, base.id)
        await world.until(lambda: mirror.host.store.has(update.record.blob.id))
        await worker.host.swarm.close()
        assert (await lead.fetch_update(update)).exists()


async def test_updates_of_a_crowd_with_files_that_nobody_has_keep_no_honest_one_from_being_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(World(tmp_path, crew=CREW))
        lead, worker = [
            await stack.enter_async_context(opened(host_in(world, name), world.run))
            for name in ("lead", "worker")
        ]
        base = await attested(worker, await solo_card(lead))
        update = await crew_update(worker, base.id)
        await lead.fetch_update(update)
        card = await attested(worker, await crew_card(lead, [update]))
        known = cast(Peer, SimpleNamespace(node=lead))
        mirror = await stack.enter_async_context(mirroring(world, known, monkeypatch))
        await world.until(lambda: mirror.board.contributors(SLOT))
        asked: list[str] = []
        fetch = mirror.fetch_update

        async def noted(wanted: Envelope[UpdateRecord], *more: Any) -> Path:
            asked.append(wanted.signer)
            return await fetch(wanted, *more)

        monkeypatch.setattr(mirror, "fetch_update", noted)
        crowd = [Identity.from_private_bytes(number.to_bytes(32, "big")) for number in range(500, 1000)]
        for number, one in enumerate(crowd):
            blob = update.record.blob.model_copy(update={"id": f"{number:064x}"})
            lie = update.record.model_copy(update={"blob": blob, "base": card.id})
            mirror.keep(_signed(one, lie))
            mirror.keep(_signed(one, worker_record(worker)))
        honest = await crew_update(worker, card.id, 8)
        await world.until(lambda: mirror.host.store.has(honest.record.blob.id))
        await asyncio.sleep(0)
        assert len(set(asked)) <= CREW.peers + 8
        assert worker.peer_id in asked


def _signed(by: Identity, record: Any) -> Envelope[Any]:
    return seal(by, record)
