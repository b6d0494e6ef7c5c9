"""A crew's card consists of rounds and updates too: all of it is fetched, kept, served and let go with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from paris_p2p.crew_records import UpdateRecord
from paris_p2p.envelope import Envelope
from paris_p2p.errors import MissingBlobError, RecordError
from paris_p2p.node.opened_rounds import MergedBlobs
from paris_p2p.node.run_node import RunNode, opened
from paris_p2p.node.update_copies import largest_update_bytes, updates_wanted
from paris_p2p.peer.crew_files import read_rounds
from paris_p2p.peer.own_cards import OwnCards
from paris_p2p.records import BlobRef, CardRecord
from paris_p2p.rules.update_sizes import expected_bytes
from paris_p2p.store.blobs import BlobStore
from paris_p2p.updates.update_header import UpdateHeader
from tests.node.crew_world import (
    CREW,
    SLOT,
    attested,
    crew_card,
    crew_update,
    host_in,
    solo_card,
    written,
)
from tests.peer.world import World


@asynccontextmanager
async def nodes(folder: Path, *names: str) -> AsyncIterator[list[RunNode]]:
    world = World(folder, crew=CREW)
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(opened(host_in(world, name), world.run)) for name in names]


async def a_round(
    lead: RunNode, worker: RunNode, other: RunNode, base: Envelope[CardRecord]
) -> tuple[Envelope[CardRecord], Envelope[UpdateRecord]]:
    """A light card that merged a worker's update, as the tip, and the update."""
    update = await crew_update(worker, base.id)
    await lead.fetch_update(update)
    card = await attested(lead, await crew_card(lead, [update]))
    other.keep(card)
    return await attested(other, card), update


async def test_a_light_card_brings_its_rounds_and_their_updates_beside_the_full_cards_files(
    tmp_path: Path,
) -> None:
    async with nodes(tmp_path, "lead", "worker", "newcomer") as (lead, worker, newcomer):
        base = await attested(worker, await solo_card(lead))
        first, one = await a_round(lead, worker, worker, base)
        card, two = await a_round(lead, worker, worker, first)
        assert len(card.record.rounds) == 2
        assert not newcomer.rounds.is_whole(card.record)
        seen: list[int] = []
        refs = await newcomer.fetch_card(card, seen.append)
        names = {ref.id for ref in refs}
        assert names == {
            base.record.weights.id,
            base.record.resume.id,
            *(ref.id for ref in card.record.rounds),
            one.record.blob.id,
            two.record.blob.id,
        }
        assert all(newcomer.host.store.has(name) for name in names)
        assert newcomer.rounds.is_whole(card.record)
        assert seen[-1] == sum(ref.size_bytes for ref in refs)
        opened_round = newcomer.rounds.open(card.record.rounds[1], SLOT)
        assert opened_round is not None
        assert [update.id for update in opened_round.updates] == [two.id]
        assert newcomer.board.contributors(SLOT) == {worker.peer_id}


async def test_what_merged_cards_consist_of_stays_and_goes_after_the_next_full_card(tmp_path: Path) -> None:
    async with nodes(tmp_path, "lead", "worker", "storer") as (lead, worker, storer):
        base = await attested(worker, await solo_card(lead))
        light, update = await a_round(lead, worker, worker, base)
        await storer.fetch_card(light)
        await storer.forget_superseded()
        has = storer.host.store.has
        names = {ref.id for ref in storer.rounds.refs(light.record)}
        assert len(names) == 4
        assert all(map(has, names))
        assert names <= storer.kept_blobs()
        second = await crew_update(worker, light.id, 8)
        await lead.fetch_update(second)
        full = await attested(worker, await crew_card(lead, [second], full=True))
        await storer.refresh([SLOT])
        await storer.fetch_card(full)
        await storer.forget_superseded()
        assert all(map(has, names))  # the owner may take the full card back
        after = full
        for number in (2, 3):
            assert all(has(ref.id) for ref in full.record.rounds)
            more = await crew_update(worker, after.id, 8 * number)
            await lead.fetch_update(more)
            after = await attested(worker, await crew_card(lead, [more]))
            await storer.refresh([SLOT])
            await storer.fetch_card(after)
        for node in (storer, worker, lead):
            await node.refresh([SLOT])
            await node.forget_superseded()
        for node in (storer, lead):
            assert not any(map(node.host.store.has, names))
            assert all(node.host.store.has(ref.id) for ref in node.rounds.refs(after.record))
        assert not worker.host.store.has(light.record.rounds[0].id)
        assert len(after.record.rounds) == 2
        assert update.record.blob.id not in storer.kept_blobs()


async def test_an_own_update_is_served_from_its_signing_until_no_round_can_merge_it(tmp_path: Path) -> None:
    async with nodes(tmp_path, "lead", "worker", "other") as (lead, worker, other):
        card = await attested(worker, await solo_card(lead))
        lost = await crew_update(worker, card.id)
        blob = lost.record.blob.id
        for number in range(3):
            await worker.forget_superseded()
            assert worker.serves(blob)
            assert worker.things(blob) == {"resume"}
            assert worker.host.store.has(blob)
            assert blob in worker.kept_blobs()
            if number == 0:
                await other.fetch_update(lost)
            update = await crew_update(lead, card.id, 8 * number)
            card = await attested(worker, await crew_card(lead, [update]))
            worker.keep(card)
        await worker.forget_superseded()
        assert lost not in worker.board.updates(SLOT)
        assert not worker.serves(blob)
        assert not worker.host.store.has(blob)


async def test_an_update_is_had_from_another_that_copied_it_where_its_maker_is_gone(tmp_path: Path) -> None:
    async with nodes(tmp_path, "lead", "worker", "copier") as (lead, worker, copier):
        base = await attested(copier, await solo_card(lead))
        update = await crew_update(worker, base.id)
        copier.keep(update)
        await copier.fetch_update(update)
        await worker.host.swarm.close()
        path = await lead.fetch_update(update)
        assert path.read_text().startswith("update expert-0")


async def test_an_update_that_names_what_lies_here_for_another_reason_opens_no_door(tmp_path: Path) -> None:
    """Who may train gets no gate clips by signing an update that names them."""
    async with nodes(tmp_path, "lead", "liar") as (lead, liar):
        base = await attested(liar, await solo_card(lead))
        gate = lead.spec.gate_shards[0].blob
        honest = await crew_update(liar, base.id)
        named = honest.record.model_copy(update={"blob": gate, "seq": honest.record.seq + 1})
        lead.host.store.add_file(World(tmp_path / "again").shards.path(gate.id))
        lie = liar.sign(named)
        lead.keep(lie)
        assert lie in lead.board.updates(SLOT)
        assert lead.things(gate.id) == {"gate"}
        stray = written(lead, "of another run")
        other = lead.host.store.add_file(stray)
        lead.keep(liar.sign(named.model_copy(update={"blob": other, "seq": honest.record.seq + 2})))
        assert not lead.serves(other.id)
        with pytest.raises(RecordError, match="names a blob that is none of an update's"):
            await lead.fetch_update(lie)


async def test_a_card_counts_as_whole_after_a_restart_and_is_told_again_with_its_updates(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, crew=CREW)
    async with opened(host_in(world, "lead"), world.run) as lead:
        identity = lead.host.identity
        async with opened(host_in(world, "worker"), world.run) as worker:
            base = await attested(worker, await solo_card(lead))
            update = await crew_update(worker, base.id)
            await lead.fetch_update(update)
            await crew_card(lead, [update])
    async with opened(host_in(world, "lead", identity), world.run) as lead:
        await OwnCards(lead, lambda slot: False, print).look()
        (card,) = lead.board.pending(SLOT)
        assert lead.rounds.is_whole(card.record)
        assert lead.serves(update.record.blob.id)
        lead.host.store.delete(update.record.blob.id)
        assert not lead.rounds.is_whole(card.record)


async def test_after_a_restart_an_own_update_that_may_still_count_is_served(tmp_path: Path) -> None:
    world = World(tmp_path, crew=CREW)
    async with opened(host_in(world, "lead"), world.run) as lead:
        async with opened(host_in(world, "worker"), world.run) as worker:
            identity = worker.host.identity
            base = await attested(worker, await solo_card(lead))
            update = await crew_update(worker, base.id)
        async with opened(host_in(world, "worker", identity), world.run) as worker:
            assert [one.id for one in worker.board.updates(SLOT)] == [update.id]
            await worker.forget_superseded()
            assert worker.serves(update.record.blob.id)
            assert (await lead.fetch_update(update)).exists()
            assert worker.own.twin is None


async def test_a_blob_that_is_no_round_has_merged_nothing_and_is_counted(tmp_path: Path) -> None:
    async with nodes(tmp_path, "lead") as (lead,):
        path = written(lead, "no round")
        ref = lead.blobs.add(path)
        assert lead.rounds.merged(ref, SLOT) == MergedBlobs()
        assert lead.rounds.merged(BlobRef(id="ab" * 32, size_bytes=100), SLOT) is None
        assert lead.refused["round: malformed"] == 1
        with pytest.raises(RecordError):
            lead.rounds.open(ref, SLOT)
        with pytest.raises(RecordError, match="over the limit"):
            lead.rounds.open(BlobRef(id="ab" * 32, size_bytes=1 << 30), SLOT)


async def test_a_round_that_this_disk_damaged_is_fetched_again_and_not_taken_for_a_wrong_one(
    tmp_path: Path,
) -> None:
    async with nodes(tmp_path, "lead", "worker", "storer") as (lead, worker, storer):
        base = await attested(worker, await solo_card(lead))
        card, _ = await a_round(lead, worker, worker, base)
        await storer.fetch_card(card)
        (ref,) = card.record.rounds
        path = storer.host.store.path(ref.id)
        path.write_bytes(b"\0" * ref.size_bytes)
        storer.rounds._known.clear()
        assert storer.rounds.merged(ref, SLOT) is None
        assert not storer.rounds.is_whole(card.record)
        await storer.fetch_card(card)
        assert storer.rounds.is_whole(card.record)


async def test_a_card_that_names_a_round_of_gigabytes_is_not_fetched(tmp_path: Path) -> None:
    async with nodes(tmp_path, "lead", "storer") as (lead, storer):
        base = await attested(storer, await solo_card(lead))
        wrong = base.record.model_copy(
            update={"rounds": (BlobRef(id="ab" * 32, size_bytes=1 << 40),), "merged": "cd" * 32}
        )
        with pytest.raises(RecordError, match="a round of 1099511627776 bytes"):
            await storer.fetch_card(lead.sign(wrong))


# which updates are copied


async def test_updates_are_copied_of_the_crew_alone_the_newest_of_each_and_of_no_giant(
    tmp_path: Path,
) -> None:
    async with nodes(tmp_path, "lead", "worker", "stranger", "copier") as (lead, worker, stranger, copier):
        assert updates_wanted(copier.board, SLOT) == []
        base = await attested(stranger, await solo_card(lead))
        copier.keep(await attested(stranger, base))
        await crew_update(stranger, base.id)
        await crew_update(worker, base.id)
        assert updates_wanted(copier.board, SLOT) == []
        copier.board.note_contributors(SLOT, frozenset({worker.peer_id}))
        newest = await crew_update(worker, base.id, 8)
        await copier.refresh([SLOT])
        await asyncio.sleep(0)
        assert [one.id for one in updates_wanted(copier.board, SLOT)] == [newest.id]
        giant = newest.record.model_copy(
            update={"blob": BlobRef(id="ab" * 32, size_bytes=1 << 40), "seq": newest.record.seq + 1}
        )
        copier.keep(worker.sign(giant))
        assert [one.id for one in updates_wanted(copier.board, SLOT)] == [newest.id]


@pytest.mark.parametrize("parameters", [1, 4096, 100_001, 605_000_000])
def test_an_honest_update_is_never_over_the_bound_and_the_bound_is_near(parameters: int) -> None:
    weights_bytes = 2 * parameters + 900
    for parts in (1, 4):
        crew = CREW.model_copy(update={"parts": parts})
        bound = largest_update_bytes(weights_bytes, crew)
        assert UpdateHeader(parameters, parts, 0).largest_bytes <= bound
        assert expected_bytes(crew, parameters, 0.3) <= bound <= 4.4 / 8 * parameters / parts + 4096


async def test_an_update_on_its_way_over_a_slow_line_stays_when_the_disk_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, "lead", "worker") as (lead, worker):
        base = await attested(worker, await solo_card(lead))
        update = await crew_update(worker, base.id)
        fetch_chunks, began, goes_on = lead.host.swarm.fetch_chunks, asyncio.Event(), asyncio.Event()

        async def slowly(*args: Any, **more: Any) -> AsyncIterator[tuple[int, Any]]:
            began.set()
            await goes_on.wait()
            async for found in fetch_chunks(*args, **more):
                yield found

        monkeypatch.setattr(lead.host.swarm, "fetch_chunks", slowly)
        fetching = asyncio.create_task(lead.fetch_update(update))
        await began.wait()
        await lead.forget_superseded()
        assert lead.keeping.holds(update.record.blob.id)
        goes_on.set()
        assert await fetching == lead.host.store.path(update.record.blob.id)
        await lead.forget_superseded()
        assert lead.serves(update.record.blob.id)


async def test_nobody_fetches_an_update_that_nobody_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paris_p2p.node.fetch._ROUND_WAIT_S", 0.0)
    async with nodes(tmp_path, "lead", "worker") as (lead, worker):
        base = await attested(worker, await solo_card(lead))
        update = await crew_update(worker, base.id)
        store: BlobStore = worker.host.store
        store.delete(update.record.blob.id)
        with pytest.raises(MissingBlobError):
            await lead.fetch_update(update)


async def test_a_checkpoint_that_a_stranger_names_in_an_update_goes_when_it_is_overtaken(
    tmp_path: Path,
) -> None:
    """Else a record of 300 bytes after each card would keep them all, until the disk is full."""
    async with nodes(tmp_path, "lead", "storer", "liar") as (lead, storer, liar):
        first = await attested(storer, await solo_card(lead))
        await storer.fetch_card(first)
        named = {"base": first.id, "steps": 1, "clips": 8, "train_loss": 1.0, "first_clip": 0}
        head = liar.header("update", SLOT, 3600.0)
        large = storer.host.store.add_file(_large(storer))
        storer.keeping.note({large.id})
        for seq, ref in enumerate((first.record.weights, large)):
            record = UpdateRecord(**(head | {"seq": head["seq"] + seq}), oldest_reader=5, blob=ref, **named)
            storer.keep(liar.sign(record))
        assert large.id in storer.board.update_blobs(SLOT)
        assert large.id not in storer.kept_blobs()
        await storer.forget_superseded()
        assert not storer.host.store.has(large.id)
        assert storer.host.store.has(first.record.weights.id)


def _large(node: RunNode) -> Path:
    path = written(node, "weights expert-0")
    path.write_bytes(path.read_bytes() + bytes(1 << 20))
    return path


async def test_a_card_that_names_a_large_file_as_its_round_has_nobody_read_it(tmp_path: Path) -> None:
    async with nodes(tmp_path, "lead", "liar") as (lead, liar):
        large = lead.host.store.add_file(_large(lead))
        lie = BlobRef(id=large.id, size_bytes=100)
        with pytest.raises(RecordError, match="not 100 as was said"):
            lead.rounds.open(lie, SLOT)
        assert lead.rounds.merged(lie, SLOT) == MergedBlobs()
        card = await solo_card(liar)
        fields = {"rounds": (lie,), "merged": "ab" * 32, "full": "cd" * 32}
        sized = liar.sign(card.record.model_copy(update=fields))
        with pytest.raises(RecordError, match="over the limit"):
            await read_rounds(lead, sized)
