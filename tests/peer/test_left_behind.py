"""A pause or a leave that runs out of time, with attestors there: the checkpoint behind the card that is out
is not lost.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from paris_p2p.envelope import Envelope
from paris_p2p.node.own_card_file import own_card
from paris_p2p.peer.lead import Lead
from paris_p2p.training.messages import Failed, GateJob, GateResult, TrainJob
from tests.peer.world import TIMING, CountingTrainer, Peer, World, good_gate, line_of

SLOT = "expert-0"
LONG = TIMING.model_copy(update={"checkpoint_s": 600.0, "claim_s": 60.0})  # no card's patience ends


class Gate:
    """Measures nothing while it is shut."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.asked = asyncio.Event()

    async def __call__(self, job: GateJob) -> GateResult:
        self.asked.set()
        await self.open.wait()
        return await good_gate(job)


def watched(starts: list[int]) -> type[CountingTrainer]:
    class Watched(CountingTrainer):
        """Makes a checkpoint only when it is asked to, after the first; notes what it began with."""

        checkpoint_steps = 10

        async def lines(self):  # type: ignore[no-untyped-def]
            starts.append(self.job.resume_steps)
            async for line in super().lines():
                yield line

    return Watched


async def left_behind(world: World, peer: Peer, gate: Gate) -> int:
    """Has a card of the peer out, which attestors are at, and a newer checkpoint behind it; returns the steps
    of the newest when the peer is asked to stop.
    """
    gate.open.clear()
    await world.until(lambda: peer.node.board.pending(SLOT))
    await asyncio.wait_for(gate.asked.wait(), 120)
    out = peer.node.board.pending(SLOT)[0].record.steps
    lead = peer.volunteer.lead
    await world.until(lambda: lead and lead.training.steps > out + 15)
    return lead.training.steps if lead else 0


def tip_steps(peer: Peer) -> int:
    tip = peer.node.board.tip(SLOT)
    return tip.card.record.steps if tip else 0


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time to leave in."""
    for name in "PAUSE_ATTEST_S", "LEAVE_ATTEST_S":
        monkeypatch.setattr(f"paris_p2p.peer.volunteer.{name}", 0.2)


@pytest.mark.usefixtures("short")
async def test_after_a_pause_it_follows_the_card_that_was_out_once_that_is_attested(tmp_path: Path) -> None:
    gate = Gate()
    async with World(tmp_path, timing=LONG) as world:
        owner = await world.add("owner", role="owner", gate=gate)
        peer = await world.add("a", slot=SLOT)
        steps = await left_behind(world, peer, gate)
        await peer.volunteer.pause()
        first = min(card.record.steps for card in peer.node.board.pending(SLOT))
        gate.open.set()
        await world.until(lambda: tip_steps(owner) >= steps)
        (before,) = owner.node.board.slots[SLOT].past.values()
        assert before.card.record.steps == first  # the one that was checked lost nothing either


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("attested_meanwhile", [False, True])
async def test_after_a_leave_the_next_start_goes_on_from_it(tmp_path: Path, attested_meanwhile: bool) -> None:
    gate, starts = Gate(), list[int]()
    async with World(tmp_path, timing=LONG) as world:
        owner = await world.add("owner", role="owner", gate=gate)
        peer = await world.add("a", slot=SLOT)
        steps = await left_behind(world, peer, gate)
        await peer.volunteer.leave()
        await asyncio.wait_for(peer.task, 120)
        if attested_meanwhile:
            gate.open.set()
            await world.until(lambda: tip_steps(owner) > 0)
            assert tip_steps(owner) < steps
            gate.open.clear()  # what is told at the start must not be the tip before training begins
        again = await world.restart("a", peer, slot=SLOT, trainer=watched(starts))
        await world.until(lambda: starts)
        assert starts[0] >= steps
        assert any("goes on from its own newest checkpoint" in line for line in again.said)
        gate.open.set()
        await world.until(lambda: tip_steps(owner) >= steps)
        assert not any("is not what this training descends from" in line for line in again.said)


@pytest.mark.usefixtures("short")
async def test_its_files_stay_where_the_card_before_it_is_attested_while_its_maker_fetches_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paris_p2p.peer.own_cards._LOOK_S", 0.05)
    gate, starts, fetched = Gate(), list[int](), asyncio.Event()
    make_job = Lead._job

    async def slow_job(lead: Lead, files: AsyncExitStack) -> TrainJob:
        await fetched.wait()
        return await make_job(lead, files)

    async with World(tmp_path, timing=LONG) as world:
        await world.add("owner", role="owner", gate=gate)
        peer = await world.add("a", slot=SLOT)
        steps = await left_behind(world, peer, gate)
        await peer.volunteer.leave()
        await asyncio.wait_for(peer.task, 120)
        monkeypatch.setattr(Lead, "_job", slow_job)
        again = await world.restart("a", peer, slot=SLOT, trainer=watched(starts))
        await world.until(lambda: again.volunteer.lead)
        gate.open.set()
        await world.until(lambda: tip_steps(again) > 0)
        gate.open.clear()
        await asyncio.sleep(1)  # looks at the slot pass
        await again.node.forget_superseded()
        fetched.set()
        await world.until(lambda: starts)
        assert starts[0] >= steps


@pytest.mark.usefixtures("short")
async def test_after_a_leave_its_maker_need_not_lead_again(tmp_path: Path) -> None:
    gate = Gate()
    async with World(tmp_path, timing=LONG) as world:
        owner = await world.add("owner", role="owner", gate=gate)
        peer = await world.add("a", slot=SLOT)
        steps = await left_behind(world, peer, gate)
        await peer.volunteer.leave()
        await asyncio.wait_for(peer.task, 120)
        gate.open.set()
        await world.until(lambda: tip_steps(owner) > 0)
        await world.restart("a", peer, slot="router")
        await world.until(lambda: tip_steps(owner) >= steps)


@pytest.mark.usefixtures("short")
async def test_resumed_the_training_goes_on_from_it(tmp_path: Path) -> None:
    gate, starts = Gate(), list[int]()
    async with World(tmp_path, timing=LONG) as world:
        owner = await world.add("owner", role="owner", gate=gate)
        peer = await world.add("a", slot=SLOT, trainer=watched(starts))
        steps = await left_behind(world, peer, gate)
        await peer.volunteer.pause()
        await peer.volunteer.resume()
        await world.until(lambda: len(starts) > 1)
        assert starts[1] >= steps
        gate.open.set()
        await world.until(lambda: tip_steps(owner) >= steps)


async def test_with_nobody_there_the_next_start_goes_on_from_it_too(tmp_path: Path) -> None:
    starts = list[int]()
    async with World(tmp_path, timing=LONG) as world:
        peer = await world.add("a", slot=SLOT)
        await world.until(lambda: peer.node.board.pending(SLOT))
        out = peer.node.board.pending(SLOT)[0].record.steps
        await world.until(lambda: peer.volunteer.lead and peer.volunteer.lead.training.steps > out + 15)
        steps = peer.volunteer.lead.training.steps if peer.volunteer.lead else 0
        await peer.volunteer.leave()
        await asyncio.wait_for(peer.task, 120)
        await world.restart("a", peer, slot=SLOT, trainer=watched(starts))
        await world.until(lambda: starts)
        assert starts[0] >= steps


@pytest.mark.usefixtures("short")
async def test_the_next_start_goes_on_from_it_too_where_the_card_before_it_was_still_being_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts, telling = list[int](), asyncio.Event()
    async with World(tmp_path, timing=LONG) as world:
        peer = await world.add("a", slot=SLOT)
        tell = peer.node.tell

        async def hanging(envelope: Envelope[Any]) -> None:
            if envelope.record.kind == "card":
                telling.set()
                await asyncio.Event().wait()
            await tell(envelope)

        monkeypatch.setattr(peer.node, "tell", hanging)
        await asyncio.wait_for(telling.wait(), 120)
        out = peer.node.board.pending(SLOT)[0].record.steps
        await world.until(lambda: peer.volunteer.lead and peer.volunteer.lead.training.steps > out + 15)
        steps = peer.volunteer.lead.training.steps if peer.volunteer.lead else 0
        await peer.volunteer.leave()
        await asyncio.wait_for(peer.task, 120)
        await world.restart("a", peer, slot=SLOT, trainer=watched(starts))
        await world.until(lambda: starts)
        assert starts[0] >= steps


@pytest.mark.usefixtures("short")
async def test_it_is_given_up_where_another_went_on_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, starts = Gate(), list[int]()

    class Fast(CountingTrainer):
        maker = " another"

    async with World(tmp_path, timing=LONG) as world:
        owner = await world.add("owner", role="owner", gate=gate)
        peer = await world.add("a", slot=SLOT)
        await left_behind(world, peer, gate)
        await peer.volunteer.leave()
        await asyncio.wait_for(peer.task, 120)
        gate.open.set()
        await world.until(lambda: tip_steps(owner) > 0)
        out = tip_steps(owner)
        heir = await world.add("heir", slot=SLOT, trainer=Fast)
        await world.until(lambda: tip_steps(owner) > out)
        monkeypatch.setattr("paris_p2p.peer.volunteer.PAUSE_ATTEST_S", 60.0)
        await heir.volunteer.pause()
        at = tip_steps(owner)
        again = await world.restart("a", peer, slot=SLOT, trainer=watched(starts))
        await world.until(lambda: starts)
        assert starts[0] == at
        assert not any("goes on from its own" in line for line in again.said)


async def test_a_trainer_that_dies_at_it_begins_with_the_tip_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paris_p2p.peer.volunteer.COOL_DOWN_S", 0.1)
    starts = list[int]()

    class Broken(CountingTrainer):
        """Cannot read what was left behind."""

        async def lines(self):  # type: ignore[no-untyped-def]
            starts.append(self.job.resume_steps)
            if self.job.resume_steps:
                return
            async for line in super().lines():
                yield line

    async with World(tmp_path, timing=LONG) as world:
        peer = await world.add("a", slot=SLOT)
        await world.until(lambda: peer.volunteer.lead and peer.volunteer.lead.training.steps > 3)
        await peer.volunteer.leave()
        await asyncio.wait_for(peer.task, 120)
        await world.restart("a", peer, slot=SLOT, trainer=Broken)
        await world.until(lambda: len(starts) > 3)
        assert min(starts[:3]) > 0
        assert starts[3] == 0


@pytest.mark.parametrize("error", ["MemoryLimitError", "DiskFullError", "DeviceError"])
async def test_the_checkpoint_of_a_trainer_that_its_machine_failed_is_kept(
    tmp_path: Path, error: str
) -> None:
    class Full(CountingTrainer):
        """Has no more of something after its first card, and wrote a checkpoint before it says so."""

        async def lines(self):  # type: ignore[no-untyped-def]
            async for line in super().lines():
                yield line
                if b'"steps":25' in line:
                    yield self._checkpoint(26)
                    yield line_of(Failed(error=error, message="it is full"))

    async with World(tmp_path, timing=LONG) as world:
        peer = await world.add("a", slot=SLOT, trainer=Full)
        await world.until(lambda: any("it is full" in line for line in peer.said))
        own = own_card(peer.node, SLOT)
        assert own is not None
        assert own.card.record.steps == 26


@pytest.mark.usefixtures("short")
async def test_a_checkpoint_that_was_refused_is_not_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paris_p2p.peer.volunteer.LEAVE_ATTEST_S", 60.0)
    starts = list[int]()

    async def worse(job: GateJob) -> GateResult:
        return GateResult(ok=True, loss=9.0, reference_loss=1.0, gate_clips=4)

    async with World(tmp_path, timing=LONG) as world:
        await world.add("owner", role="owner", gate=worse)
        peer = await world.add("a", slot=SLOT, gate=worse)
        await world.until(lambda: peer.volunteer.lead and peer.volunteer.lead.training.steps > 3)
        await peer.volunteer.leave()
        await asyncio.wait_for(peer.task, 120)
        assert any("was refused" in line for line in peer.said)
        await world.restart("a", peer, slot=SLOT, trainer=watched(starts))
        await world.until(lambda: starts)
        assert starts[0] == 0
