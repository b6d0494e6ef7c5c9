"""A peer that leads a slot again, while its own last card is not attested yet, trains nothing twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from paris_p2p.envelope import Envelope
from paris_p2p.node.own_card_file import own_card
from paris_p2p.node.run_node import RunNode
from paris_p2p.peer import outbox, own_cards
from paris_p2p.peer.own_cards import OwnCards
from paris_p2p.peer.owner_changes import OwnerChanges
from paris_p2p.records import CardRecord
from paris_p2p.training.messages import CheckpointReady, Failed, GateJob, GateResult, TrainJob, parse_event
from tests.peer.crew_world import CREW, CountingCrewTrainer, counting_gate
from tests.peer.test_left_behind import LONG, SLOT, Gate, left_behind, short, tip_steps, watched
from tests.peer.test_refusals import Noted, overfit_gate
from tests.peer.world import TIMING, CountingTrainer, Peer, World, line_of

__all__ = ["short"]  # a fixture
BEGINS_AGAIN = "is not what this training descends from"


class Fetching:
    """Holds what training needs up, as a slow line does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began, self.ends = asyncio.Event(), asyncio.Event()
        first_job = OwnerChanges.first_job

        async def late(changes: OwnerChanges) -> TrainJob:
            self.began.set()
            await self.ends.wait()
            return await first_job(changes)

        monkeypatch.setattr(OwnerChanges, "first_job", late)


def says(peer: Peer, words: str) -> bool:
    return any(words in line for line in peer.said)


async def test_a_card_that_becomes_the_tip_while_clips_are_fetched_is_what_training_begins_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, starts = Gate(), list[int]()
    async with World(tmp_path, timing=LONG) as world:
        await world.add("owner", role="owner", gate=gate)
        peer = await world.add("a", slot=SLOT)
        gate.open.clear()
        await world.until(lambda: peer.node.board.pending(SLOT))
        out = peer.node.board.pending(SLOT)[0].record.steps
        await asyncio.wait_for(gate.asked.wait(), 120)
        await peer.die()
        fetching = Fetching(monkeypatch)
        again = await world.restart("a", peer, slot=SLOT, trainer=watched(starts))
        await asyncio.wait_for(fetching.began.wait(), 120)
        gate.open.set()
        await world.until(lambda: tip_steps(again) == out)
        fetching.ends.set()
        await world.until(lambda: starts)
        assert starts == [out]
        await world.until(lambda: again.volunteer.lead and again.volunteer.lead.training.steps > out + 10)
        assert not says(again, BEGINS_AGAIN)


@pytest.mark.usefixtures("short")
async def test_the_files_of_a_card_stay_while_the_clips_to_go_on_with_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, starts, looked = Gate(), list[int](), asyncio.Event()
    async with World(tmp_path, timing=LONG) as world:
        await world.add("owner", role="owner", gate=gate)
        peer = await world.add("a", slot=SLOT)
        steps = await left_behind(world, peer, gate)
        await peer.volunteer.leave()
        await asyncio.wait_for(peer.task, 120)
        look, fetching = OwnCards.look, Fetching(monkeypatch)

        async def note(cards: OwnCards) -> str:
            failed = await look(cards)
            looked.set()
            return failed

        monkeypatch.setattr(OwnCards, "look", note)
        again = await world.restart("a", peer, slot=SLOT, trainer=watched(starts))
        await asyncio.wait_for(fetching.began.wait(), 120)
        gate.open.set()
        await world.until(lambda: tip_steps(again) > 0)
        gate.open.clear()
        for _ in range(2):  # one may have begun before
            looked.clear()
            await asyncio.wait_for(looked.wait(), 120)
        await again.node.forget_superseded()
        fetching.ends.set()
        await world.until(lambda: starts)
        assert starts[0] >= steps
        gate.open.set()
        await world.until(lambda: tip_steps(again) >= steps)
        assert not says(again, BEGINS_AGAIN)


async def test_a_checkpoint_that_two_leaderships_signed_goes_out_no_third_time(tmp_path: Path) -> None:
    """The attestor is at the first of its cards when the second comes, under a higher epoch."""

    class OnlyAsked(CountingTrainer):
        checkpoint_steps = 1 << 30

    gate, seen = Gate(), list[CardRecord]()
    timing = TIMING.model_copy(update={"checkpoint_s": 4.0})
    async with World(tmp_path, timing=timing) as world:
        owner = await world.add("owner", role="owner", gate=gate)

        def note(one: Envelope[Any]) -> None:
            if isinstance(one.record, CardRecord):
                seen.append(one.record)

        owner.node.listeners.append(note)
        peer = await world.add("a", slot=SLOT)
        await world.until(lambda: tip_steps(owner) > 0)
        gate.asked.clear()
        gate.open.clear()
        await asyncio.wait_for(gate.asked.wait(), 120)
        await peer.die()
        await asyncio.sleep(timing.claim_s + timing.margin_s)  # so that it leads under another epoch
        again = await world.restart("a", peer, slot=SLOT, trainer=OnlyAsked)
        await world.until(lambda: len({one.record.epoch for one in owner.node.board.pending(SLOT)}) == 2)
        out = owner.node.board.pending(SLOT)[0].record.steps
        gate.open.set()
        await world.until(lambda: tip_steps(owner) > out)
        assert not says(again, BEGINS_AGAIN)
        assert len({(one.parent, one.steps) for one in seen}) == len({one.steps for one in seen})


@pytest.mark.parametrize("is_heard", [True, False])
async def test_nothing_trains_before_a_card_that_goes_back_is_the_tip_or_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_heard: bool
) -> None:
    tell, timing = own_cards.tell_card, TIMING.model_copy(update={"checkpoint_s": 4.0})
    hear = asyncio.Event()

    async def nobody_hears(node: RunNode, card: Any) -> None:
        if card.record.lowered:
            await hear.wait()
        await tell(node, card)

    if not is_heard:
        monkeypatch.setattr("paris_p2p.node.own_card_file.attest_patience_s", lambda _: 5.0)
    for module in (outbox, own_cards):
        monkeypatch.setattr(module, "tell_card", nobody_hears)
    Noted.started = []
    lead: dict[str, Any] = {"slot": SLOT, "trainer": Noted, "gate": overfit_gate}
    async with World(tmp_path, timing=timing) as world:
        owner = await world.add("owner", role="owner", gate=overfit_gate)
        peer = await world.add("a", **lead)
        await world.until(lambda: (own := own_card(peer.node, SLOT)) and own.card.record.lowered)
        best = tip_steps(owner)
        await peer.die()
        Noted.started = []
        again = await world.restart("a", peer, **lead)
        await world.until(lambda: says(again, "until then nothing trains") or Noted.started)
        assert not Noted.started
        if is_heard:
            hear.set()
        await world.until(lambda: Noted.started)
        assert Noted.started == [(int(is_heard), best)]


async def test_a_card_that_is_out_outlasts_a_want_of_memory(tmp_path: Path) -> None:
    class Fails(watched([])):  # type: ignore[misc]
        async def lines(self) -> AsyncIterator[bytes]:
            async for line in super().lines():
                yield line
                if isinstance(parse_event(line), CheckpointReady):
                    break
            while own_card(world.peers[0].node, SLOT) is None:
                await asyncio.sleep(0.02)
            yield line_of(Failed(error="MemoryLimitError", message="one clip at once is too much"))

    async with World(tmp_path, timing=LONG) as world:
        peer = await world.add("a", slot=SLOT, trainer=Fails)
        await world.until(lambda: says(peer, "gave up"))
        assert own_card(peer.node, SLOT) is not None


async def test_a_round_that_is_out_is_gone_on_from_when_its_lead_comes_back(tmp_path: Path) -> None:
    is_open = asyncio.Event()
    is_open.set()

    async def gate(job: GateJob) -> GateResult:
        await is_open.wait()
        return await counting_gate(job)

    lead: dict[str, Any] = {"slot": SLOT, "trainer": CountingCrewTrainer, "gate": gate}
    timing = TIMING.model_copy(update={"claim_s": 30.0, "checkpoint_s": 4.0})
    async with World(tmp_path, crew=CREW, timing=timing) as world:
        owner = await world.add("owner", role="owner", gate=gate)
        peer = await world.add("a", **lead)
        await world.until(lambda: peer.volunteer.lead is not None)
        await world.add("worker", **lead)
        await world.until(lambda: (tip := owner.node.board.tip(SLOT)) and tip.card.record.merged)
        is_open.clear()

        def round_out() -> bool:
            own, tip = own_card(peer.node, SLOT), owner.node.board.tip(SLOT)
            is_round = own is not None and bool(own.card.record.merged)
            return bool(is_round and own and tip and own.card.record.parent == tip.card.id)

        await world.until(round_out)
        await asyncio.sleep(1.0)
        await world.until(round_out)  # no check that was under way ended with it
        await peer.die()
        again = await world.restart("a", peer, **lead)
        await world.until(lambda: again.volunteer.lead and again.volunteer.lead.rounds.seat.process)
        out = own_card(again.node, SLOT)
        assert out is not None
        is_open.set()
        await world.until(lambda: tip_steps(owner) > out.card.record.steps)
        assert not says(again, BEGINS_AGAIN)
        assert out.card.id in {tip.card.id for tip in owner.node.board.tips(SLOT)}
