"""Attestors that chose different cards for one place, or were killed over a choice: the slot goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from paris_p2p.envelope import Envelope
from paris_p2p.identity import Identity
from paris_p2p.records import CardRecord
from paris_p2p.spec import GateSpec
from paris_p2p.training.messages import GateJob, GateResult
from tests.peer.world import TIMING, CountingTrainer, Peer, World, good_gate

SLOT = "expert-0"
TWO = GateSpec(quorum=2)
PATIENT = TIMING.model_copy(update={"claim_s": 3.0})


def tip_card(peer: Peer) -> Envelope[CardRecord] | None:
    tip = peer.node.board.tip(SLOT)
    return tip.card if tip else None


def attested(peer: Peer, *by: Peer) -> list[tuple[int, set[str]]]:
    """Epochs of waiting cards, and who of `by` signed them."""
    board = peer.node.board
    names = {one.node.peer_id for one in by}
    return [(card.record.epoch, board.attestors(card.id, SLOT) & names) for card in board.pending(SLOT)]


async def test_an_attestor_that_comes_late_completes_what_another_began(tmp_path: Path) -> None:
    async with World(tmp_path, gate=TWO, timing=PATIENT) as world:
        await world.add("a", slot=SLOT)
        x = await world.add("x", role="owner")
        await world.until(lambda: len(x.node.board.pending(SLOT)) >= 2)
        first = x.node.board.pending(SLOT)[0]
        y = await world.add("y", role="owner")
        await world.until(lambda: tip_card(y) is not None)
        assert y.node.board.tip(SLOT).card.id == first.id  # type: ignore[union-attr]
        await world.until(lambda: (card := tip_card(y)) is not None and card.record.seq >= 2)


@pytest.mark.parametrize("dies", [False, True], ids=["sitting lead", "successor"])
async def test_a_split_vote_is_left_for_a_higher_epoch_and_no_training_is_lost(
    tmp_path: Path, dies: bool
) -> None:
    go_on, refused, starts = asyncio.Event(), list[str](), list[int]()

    async def slow(job: GateJob) -> GateResult:
        await go_on.wait()
        return await good_gate(job)

    async def first_refused(job: GateJob) -> GateResult:
        refused.append(job.card)
        return await good_gate(job) if job.card != refused[0] else GateResult(ok=False, reason="not this one")

    class Noted(CountingTrainer):
        async def lines(self):  # type: ignore[no-untyped-def]
            starts.append(self.job.resume_steps)
            async for line in super().lines():
                yield line

    names = Identity.generate(), Identity.generate()
    gate = GateSpec(quorum=2, members_attest=False, attestors=tuple(name.peer_id for name in names))
    async with World(tmp_path, gate=gate, timing=PATIENT) as world:
        a = await world.add("a", slot=SLOT, trainer=Noted)
        x = await world.add("x", role="owner", gate=slow, identity=names[0])
        y = await world.add("y", role="owner", gate=first_refused, identity=names[1])
        await world.until(lambda: (1, {y.node.peer_id}) in attested(y, x, y))
        go_on.set()
        await world.until(lambda: (1, {x.node.peer_id}) in attested(y, x, y))
        split = [card for card in y.node.board.pending(SLOT) if y.node.board.attestors(card.id, SLOT)]
        assert len(split) == 2
        if dies:
            await a.die()
            await world.add("b", slot=SLOT)
        await world.until(lambda: tip_card(y) is not None)
        card = tip_card(y)
        assert card is not None
        assert card.record.epoch == 2
        assert (card.signer == a.node.peer_id) is not dies
        if not dies:
            assert starts == [0]
            assert card.record.steps > max(one.record.steps for one in split)
            await world.until(lambda: (card := tip_card(y)) is not None and card.record.seq >= 3)
            assert a.volunteer.lead is not None
            assert starts == [0]


async def test_an_attestor_killed_between_its_choice_and_the_tip_signs_what_it_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path) as world:
        x = await world.add("x", role="owner")
        put = x.node.ledger.put

        def killed(key: str, data: bytes) -> None:
            if key.startswith("tip/"):
                x.swarm.offline = True
                raise OSError("killed")
            put(key, data)

        monkeypatch.setattr(x.node.ledger, "put", killed)
        a = await world.add("a", slot=SLOT)
        await asyncio.gather(x.task, return_exceptions=True)
        await a.die()  # and never comes back
        await asyncio.sleep(TIMING.claim_s + TIMING.margin_s)  # its claim runs out too
        x = await world.restart("x", x, role="owner")
        await world.until(lambda: tip_card(x) is not None)
        assert x.node.board.tip(SLOT).card.signer == a.node.peer_id  # type: ignore[union-attr]
        await world.add("b", slot=SLOT)
        await world.until(lambda: (card := tip_card(x)) is not None and card.record.seq >= 2)
