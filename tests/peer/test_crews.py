"""Several peers train one slot on a fake network: rounds, hand-over, placement."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from paris_p2p.crew_records import CrewSpec
from paris_p2p.identity import Identity
from paris_p2p.peer.crew_files import read_rounds
from paris_p2p.records import CardRecord
from tests.peer.crew_world import CREW, CountingCrewTrainer, counting_gate
from tests.peer.test_private_run import A, SealedWorld
from tests.peer.world import TIMING, Peer, World

pytestmark = pytest.mark.long  # all together
SLOT = "expert-0"
# no record lapses on a machine that stands still for seconds, or another would lead
UNHURRIED = TIMING.model_copy(update={"claim_s": 12.0})
ANY: dict[str, Any] = {"trainer": CountingCrewTrainer, "gate": counting_gate}
ONLY: dict[str, Any] = {"slot": SLOT, **ANY}


def crew_world(root: Path, crew: CrewSpec = CREW, **more: Any) -> World:
    return World(root, **{"crew": crew, "timing": UNHURRIED, **more})


async def add_owner(world: World) -> Peer:
    return await world.add("owner", role="owner", gate=counting_gate)


def tip_card(peer: Peer, slot: str = SLOT) -> CardRecord | None:
    tip = peer.node.board.tip(slot)
    return tip.card.record if tip else None


def tip_steps(peer: Peer, slot: str = SLOT) -> int:
    card = tip_card(peer, slot)
    return card.steps if card else 0


def is_merged(peer: Peer, slot: str = SLOT) -> bool:
    card = tip_card(peer, slot)
    return card is not None and bool(card.merged)


def signers(peer: Peer, slot: str = SLOT) -> set[str]:
    """Whose updates went into the tip's rounds, as far as they are on this peer's disk."""
    card = tip_card(peer, slot)
    return set(peer.node.rounds.signers(card)) if card else set()


def lead_among(peers: Sequence[Peer], slot: str = SLOT) -> Peer | None:
    leads = [peer for peer in peers if peer.volunteer.lead and peer.volunteer.lead.slot == slot]
    return leads[0] if len(leads) == 1 else None


def workers_among(peers: Sequence[Peer], slot: str = SLOT) -> list[Peer]:
    return [peer for peer in peers if peer.volunteer.worker and peer.volunteer.worker.slot == slot]


def ids(peers: Sequence[Peer]) -> set[str]:
    return {peer.node.peer_id for peer in peers}


async def counted_once(peer: Peer) -> set[str]:
    """Asserts that the tip's rounds count each clip of each stream once, and returns whose they are."""
    tip = peer.node.board.tip(SLOT)
    assert tip is not None
    card, rounds = tip.card.record, await read_rounds(peer.node, tip.card)
    clips = [
        (one.signer, clip)
        for each in rounds
        for one in each.updates
        for clip in range(one.record.first_clip, one.record.first_clip + one.record.clips)
    ]
    assert len(clips) == len(set(clips))
    assert len(clips) == card.clips - rounds[0].made.clips_before
    assert (card.steps, card.clips) == (rounds[-1].made.steps, 4 * card.steps)
    return {one.signer for each in rounds for one in each.updates}


async def test_a_crew_of_four_merges_all_its_members_and_counts_every_clip_once(tmp_path: Path) -> None:
    async with crew_world(tmp_path) as world:
        owner = await add_owner(world)
        peers = [await world.add(name, **ONLY) for name in "abcd"]
        await world.until(lambda: signers(owner) == ids(peers))
        assert await counted_once(owner) == ids(peers)
        assert not owner.node.refused


async def test_full_weights_go_out_after_some_rounds_and_the_rounds_begin_anew(tmp_path: Path) -> None:
    seen: list[tuple[int, bool]] = []
    async with crew_world(tmp_path) as world:
        owner = await add_owner(world)
        for name in "ab":
            await world.add(name, **ONLY)

        def look() -> bool:
            card = tip_card(owner)
            if card is not None and card.merged and (len(card.rounds), card.is_light) not in seen[-1:]:
                seen.append((len(card.rounds), card.is_light))
            return len(seen) >= 6

        await world.until(look)
        whole = seen.index((4, False))
        assert all(is_light for _, is_light in seen[:whole])
        assert seen[whole + 1] == (1, True)
        card = tip_card(owner)
        assert card is not None
        assert card.is_light == bool(card.full)


async def test_a_worker_leads_when_the_lead_dies_and_at_most_a_round_is_lost(tmp_path: Path) -> None:
    async with crew_world(tmp_path, timing=TIMING) as world:
        owner = await add_owner(world)
        peers = [await world.add(name, **ONLY) for name in "abc"]
        await world.until(lambda: len(signers(owner)) == 3)
        dead = lead_among(peers)
        assert dead is not None
        steps, heirs = tip_steps(owner), [peer for peer in peers if peer is not dead]
        processes = {peer.node.peer_id: peer.volunteer.worker.seat.process for peer in workers_among(heirs)}
        await dead.die()
        await world.until(lambda: lead_among(heirs) is not None)
        heir = lead_among(heirs)
        assert heir is not None
        assert heir.volunteer.lead is not None
        # the trainer goes on as it was
        assert heir.volunteer.lead.rounds.seat.process is processes[heir.node.peer_id]
        await world.until(lambda: tip_steps(owner) > steps and _by(owner, heir))
        assert is_merged(owner)
        await world.until(lambda: ids(heirs) <= signers(owner))
        await counted_once(owner)


def _by(peer: Peer, maker: Peer) -> bool:
    tip = peer.node.board.tip(SLOT)
    return tip is not None and tip.card.signer == maker.node.peer_id


async def test_a_worker_that_dies_is_not_waited_for_longer_than_its_record_lives(tmp_path: Path) -> None:
    async with crew_world(tmp_path, timing=TIMING) as world:
        owner = await add_owner(world)
        peers = [await world.add(name, **ONLY) for name in "abc"]
        await world.until(lambda: len(signers(owner)) == 3)
        dead = workers_among(peers)[0]
        await dead.die()
        rest = [peer for peer in peers if peer is not dead]
        steps = tip_steps(owner)
        await world.until(lambda: tip_steps(owner) > steps and signers(owner) == ids(rest))
        await world.until(
            lambda: (
                dead.node.peer_id not in [one.peer for one in owner.node.board.crew(SLOT, "", time.time())]
            )
        )


async def test_a_late_joiner_works_from_the_newest_full_card_and_the_rounds_since(tmp_path: Path) -> None:
    async with crew_world(tmp_path) as world:
        owner = await add_owner(world)
        peers = [await world.add(name, **ONLY) for name in "ab"]
        await world.until(lambda: (card := tip_card(owner)) is not None and len(card.rounds) >= 2)
        late = await world.add("late", **ONLY)
        await world.until(lambda: late.node.peer_id in signers(owner))
        assert ids(peers) <= signers(owner)
        assert not any("ended" in line or "gave up" in line for line in late.said)


async def test_a_crew_that_its_workers_left_becomes_one_lead_alone_and_comes_back(tmp_path: Path) -> None:
    async with crew_world(tmp_path) as world:
        owner = await add_owner(world)
        first = await world.add("first", **ONLY)
        await world.until(lambda: tip_steps(owner) > 0)
        worker = await world.add("worker", **ONLY)
        await world.until(lambda: ids([first, worker]) == signers(owner))
        await worker.volunteer.pause()
        assert worker.volunteer.worker is None
        await world.until(lambda: (card := tip_card(owner)) is not None and not card.merged)
        steps = tip_steps(owner)
        await world.until(lambda: tip_steps(owner) > steps and not is_merged(owner))  # it trains on
        await worker.volunteer.resume()
        await world.until(lambda: ids([first, worker]) == signers(owner))
        await counted_once(owner)


async def test_a_lead_that_pauses_publishes_what_there_is_and_a_worker_goes_on(tmp_path: Path) -> None:
    async with crew_world(tmp_path) as world:
        owner = await add_owner(world)
        peers = [await world.add(name, **ONLY) for name in "ab"]
        await world.until(lambda: len(signers(owner)) == 2)
        lead = lead_among(peers)
        assert lead is not None
        await lead.volunteer.pause()
        assert lead.volunteer.working is None
        rest = [peer for peer in peers if peer is not lead]
        await world.until(lambda: lead_among(rest) is not None)
        steps = tip_steps(owner)
        await world.until(lambda: tip_steps(owner) > steps)
        await lead.volunteer.resume()
        await world.until(lambda: lead.volunteer.worker is not None)


async def test_five_peers_balance_over_three_slots_and_stay(tmp_path: Path) -> None:
    async with crew_world(tmp_path, experts=2) as world:
        await add_owner(world)
        peers = [await world.add(name, **ANY) for name in "abcde"]
        slots = world.run.record.slots
        for peer in peers:  # two that join one crew at once wait a patience, here of hardly any bytes
            peer.node.board.hearing.state_bytes |= dict.fromkeys(slots, 0)

        def sizes() -> list[int]:
            return sorted(
                len(workers_among(peers, slot)) + (lead_among(peers, slot) is not None) for slot in slots
            )

        await world.until(lambda: sizes() == [1, 2, 2])
        places = {peer.node.peer_id: _place(peer) for peer in peers}
        for _ in range(40):
            await asyncio.sleep(0.05)
            assert {peer.node.peer_id: _place(peer) for peer in peers} == places


def _place(peer: Peer) -> str:
    working = peer.volunteer.working
    return working.slot if working else ""


async def test_a_private_run_has_crews_whose_files_are_sealed(tmp_path: Path) -> None:
    members = (Identity.generate(), Identity.generate())
    async with SealedWorld(tmp_path, attestors=(A, *members), crew=CREW, timing=UNHURRIED) as world:
        # A is the run's owner's node in that world
        owner = await world.join("owner", A, role="owner", gate=counting_gate)
        peers = [await world.join(f"m{place}", one, **ONLY) for place, one in enumerate(members)]
        await world.until(lambda: len(signers(owner)) == 2)
        assert signers(owner) == ids(peers)
        card = tip_card(owner)
        assert card is not None
        stores = [peer.node.host.store for peer in (owner, *peers)]  # the owner's may have gone on meanwhile
        found = [store.path(ref.id) for ref in card.rounds for store in stores if store.has(ref.id)]
        assert found
        assert not any(b"lineage" in path.read_bytes() for path in found)


async def test_a_peer_that_ends_in_a_crew_leaves_no_task(tmp_path: Path) -> None:
    async with crew_world(tmp_path) as world:
        owner = await add_owner(world)
        peers = [await world.add(name, **ONLY) for name in "abc"]
        await world.until(lambda: len(signers(owner)) == 3)
        worker, lead = workers_among(peers)[0], lead_among(peers)
        assert lead is not None
        await worker.volunteer.leave()
        await asyncio.wait_for(worker.task, 120)
        await lead.die()
    await asyncio.sleep(0)  # what was cancelled last ends now
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
