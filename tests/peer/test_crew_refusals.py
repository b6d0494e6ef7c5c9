"""What a crew's lead refuses, what its attestors refuse, and when it goes on alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paris_p2p.crew_records import UpdateRecord
from paris_p2p.envelope import Envelope
from paris_p2p.peer.crew_files import read_rounds
from paris_p2p.training.crew_messages import UpdateFile
from paris_p2p.training.messages import GateJob, GateResult
from tests.peer.crew_world import CountingCrewTrainer, counting_gate
from tests.peer.test_crews import (
    ONLY,
    SLOT,
    add_owner,
    counted_once,
    crew_world,
    ids,
    is_merged,
    lead_among,
    signers,
    tip_card,
    tip_steps,
    workers_among,
)
from tests.peer.world import Peer

pytestmark = pytest.mark.long  # all together


def refusing(code: str) -> tuple[type[CountingCrewTrainer], set[str]]:
    """A trainer that refuses the updates of the peers in a set for a reason."""
    bad = set[str]()

    class Refusing(CountingCrewTrainer):
        refuses: Callable[[UpdateFile], str] = staticmethod(lambda one: code if one.signer in bad else "")

    return Refusing, bad


async def test_a_refused_update_is_told_its_maker_with_the_reason(tmp_path: Path) -> None:
    trainer, bad = refusing("norm")
    async with crew_world(tmp_path) as world:
        owner = await add_owner(world)
        peers = [await world.add(name, **ONLY | {"trainer": trainer}) for name in "abc"]
        await world.until(lambda: len(signers(owner)) == 3)
        worker = workers_among(peers)[0]
        bad.add(worker.node.peer_id)
        await world.until(lambda: any("three times as long as the others" in line for line in worker.said))
        tip = owner.node.board.tip(SLOT)
        assert tip is not None
        assert worker.volunteer.worker is not None
        assert worker.volunteer.worker.seat.refusals["norm"] >= 1
        told = [one for each in await read_rounds(owner.node, tip.card) for one in each.made.refused]
        assert {one.reason for one in told if one.peer == worker.node.peer_id} <= {"norm"}
        bad.clear()
        await world.until(lambda: worker.node.peer_id in _last_signers(owner))  # it is not shut out


def _last_signers(peer: Peer) -> set[str]:
    """Whose updates the tip's last round merged, as far as it is on this peer's disk."""
    card = tip_card(peer)
    if card is None or not card.rounds:
        return set()
    opened = peer.node.rounds.open(card.rounds[-1], SLOT)
    return {one.signer for one in opened.updates} if opened else set()


async def test_an_update_on_a_slow_line_holds_up_no_round_and_counts_in_a_later_one(tmp_path: Path) -> None:
    async with crew_world(tmp_path) as world:
        owner = await add_owner(world)
        peers = [await world.add(name, **ONLY) for name in "abc"]
        await world.until(lambda: len(signers(owner)) == 3)
        lead, slow = lead_among(peers), workers_among(peers)[0]
        assert lead is not None
        fetch, steps = lead.node.fetch_update, list[int]()

        async def dripping(update: Envelope[UpdateRecord], *more: Any) -> Path:
            if update.signer == slow.node.peer_id:
                at = tip_steps(lead)
                steps.append(at)
                while tip_steps(lead) == at:  # it comes when the round is over
                    await asyncio.sleep(0.02)
            return await fetch(update, *more)

        lead.node.fetch_update = dripping  # type: ignore[method-assign]
        await world.until(lambda: len(set(steps)) >= 2)
        await world.until(lambda: slow.node.peer_id in _last_signers(owner))
        rounds = await read_rounds(owner.node, owner.node.board.tip(SLOT).card)  # type: ignore[union-attr]
        late = [
            each.late
            for one in rounds
            for each, update in zip(one.made.updates, one.updates, strict=True)
            if update.signer == slow.node.peer_id
        ]
        assert late
        assert max(late) <= 2
        await counted_once(owner)


async def test_a_round_that_the_gate_refuses_is_merged_without_the_update_that_causes_it(
    tmp_path: Path,
) -> None:
    harmful = set[str]()

    def is_harmed(peer: Peer, job: GateJob) -> bool:
        cards = peer.node.board.slots[SLOT].cards
        rounds = cards[job.card].record.rounds if job.card in cards else ()
        opened = [one.node.rounds.open(rounds[-1], SLOT) for one in peers] if rounds else []  # one made it
        return any(harmful & {each.signer for each in one.updates} for one in opened if one is not None)

    peers: list[Peer] = []

    def gate_of(place: int) -> Any:
        async def gate(job: GateJob) -> GateResult:
            if len(peers) > place and is_harmed(peers[place], job):
                return GateResult(ok=True, loss=9.0, reference_loss=1.0, gate_clips=4)
            return await counting_gate(job)

        return gate

    async with crew_world(tmp_path) as world:
        peers.append(await world.add("owner", role="owner", gate=gate_of(0)))
        for place, name in enumerate("abc", 1):
            peers.append(await world.add(name, **ONLY | {"gate": gate_of(place)}))
        owner, members = peers[0], peers[1:]
        await world.until(lambda: len(signers(owner)) == 3)
        lead, bad = lead_among(members), workers_among(members)[0]
        assert lead is not None
        harmful.add(bad.node.peer_id)
        await world.until(
            lambda: (
                lead.volunteer.lead is not None
                and bad.node.peer_id in lead.volunteer.lead.rounds.lead.notes.blamed
            )
        )
        await world.until(lambda: _last_signers(owner) == ids(members) - ids([bad]))
        harmful.clear()
        await world.until(lambda: bad.node.peer_id in _last_signers(owner))  # it is not shut out


async def test_a_crew_that_is_worse_than_its_lead_alone_is_left_for_some_rounds(tmp_path: Path) -> None:
    class Worse(CountingCrewTrainer):
        worse_z = 5.0

    async with crew_world(tmp_path) as world:
        owner = await add_owner(world)
        peers = [await world.add(name, **ONLY | {"trainer": Worse}) for name in "ab"]
        await world.until(lambda: len(signers(owner)) == 2)
        lead = lead_among(peers)
        assert lead is not None
        assert lead.volunteer.lead is not None
        lead.volunteer.lead.rounds.lead.notes.since_measure = 100  # it is time to compare
        lead.volunteer.lead.rounds.lead.notes.worth = lead.volunteer.lead.rounds.lead.notes.worth.compared(
            5.0
        )
        await world.until(lambda: any("did worse than this machine alone" in line for line in lead.said))
        await world.until(lambda: not is_merged(owner))
        # and it tries again
        await world.until(lambda: is_merged(owner))


async def test_a_lead_that_can_merge_nothing_trains_on_alone(tmp_path: Path) -> None:
    class Refused(CountingCrewTrainer):
        refuses: Callable[[UpdateFile], str] = staticmethod(lambda one: "norm")

    async with crew_world(tmp_path) as world:
        owner = await add_owner(world)
        peers = [await world.add(name, **ONLY | {"trainer": Refused}) for name in "ab"]
        await world.until(lambda: any("in a row could be merged" in line for p in peers for line in p.said))
        steps = tip_steps(owner)
        await world.until(lambda: tip_steps(owner) > steps)
        assert not is_merged(owner)


async def test_a_lead_on_a_slow_line_sends_rounds_of_its_own_between_full_checkpoints(tmp_path: Path) -> None:
    async with crew_world(tmp_path) as world:
        owner = await add_owner(world)
        peer = await world.add("a", **ONLY)
        await world.until(lambda: tip_steps(owner) > 0)
        peer.volunteer.uplink.limit_bytes_per_s = 60.0  # a checkpoint of 100 bytes takes longer than a third
        await world.until(lambda: len((tip_card(owner) or _none()).rounds) >= 2)
        assert signers(owner) == ids([peer])
        peer.volunteer.uplink.limit_bytes_per_s = 1e6
        await world.until(lambda: not is_merged(owner))  # as a lead alone does on a fast line


def _none() -> Any:
    class Nothing:
        rounds = ()

    return Nothing


async def test_a_trainer_that_dies_in_a_crew_is_started_again_from_the_tip(tmp_path: Path) -> None:
    async with crew_world(tmp_path) as world:
        owner = await add_owner(world)
        peers = [await world.add(name, **ONLY) for name in "abc"]
        await world.until(lambda: len(signers(owner)) == 3)
        lead, worker = lead_among(peers), workers_among(peers)[0]
        assert lead is not None
        for peer in (lead, worker):
            working = peer.volunteer.working
            assert working is not None
            seat = working.seat if peer is worker else working.rounds.seat  # type: ignore[union-attr]
            process = seat.process
            assert process is not None
            process._worker.killed.set()  # type: ignore[union-attr]
            await world.until(lambda peer=peer: any("started again from the tip" in x for x in peer.said))
        steps = tip_steps(owner)
        await world.until(lambda: tip_steps(owner) > steps and len(_last_signers(owner)) == 3)
        await counted_once(owner)


async def test_a_crew_whose_cards_get_worse_goes_back_to_its_best_and_on_at_a_lower_rate(
    tmp_path: Path,
) -> None:
    from_steps = [10**9]

    async def worse(job: GateJob) -> GateResult:
        if job.steps >= from_steps[0]:
            return GateResult(ok=True, loss=9.0, reference_loss=1.0, gate_clips=4)
        return await counting_gate(job)

    async with crew_world(tmp_path) as world:
        owner = await world.add("owner", role="owner", gate=worse)
        peers = [await world.add(name, **ONLY | {"gate": worse}) for name in "ab"]
        await world.until(lambda: len(signers(owner)) == 2)
        from_steps[0] = tip_steps(owner) + 1
        await world.until(lambda: (card := tip_card(owner)) is not None and card.lowered == 1)
        from_steps[0] = 10**9
        steps = tip_steps(owner)
        await world.until(lambda: tip_steps(owner) > steps and len(_last_signers(owner)) == 2)
        assert not any("gave up" in line for peer in peers for line in peer.said)
        for peer in peers:
            working = peer.volunteer.working
            assert working is not None
