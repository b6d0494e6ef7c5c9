"""A lead that is refused hears why, goes back at a lower rate, and a slot that gets no better rests; false
refusals stop nobody.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from paris_p2p.envelope import seal
from paris_p2p.identity import Identity
from paris_p2p.kinds import SIGNED_LIFETIME_S
from paris_p2p.node.run_node import RunNode
from paris_p2p.node.status import slot_status
from paris_p2p.peer import outbox
from paris_p2p.peer.refusing import Refusals
from paris_p2p.records import RefusalRecord
from paris_p2p.rules.rates import RESTS
from paris_p2p.rules.refusals import REASONS
from paris_p2p.rules.rest import rests
from paris_p2p.spec import GateSpec
from paris_p2p.training.messages import GateJob, GateResult
from tests.peer.world import CountingTrainer, Peer, World, good_gate

SLOT = "expert-0"


def held_out_loss(steps: int) -> float:
    """Everything is learnt by heart from the start: the first checkpoint is the best."""
    return 1.0 + steps / 20


async def overfit_gate(job: GateJob) -> GateResult:
    """What a real gate would measure of the counting trainer's checkpoints."""
    loss, reference = held_out_loss(job.steps), 1e3
    if job.best_weights_path is not None:
        reference = held_out_loss(int(job.best_weights_path.read_text().split()[-1]))
    return GateResult(ok=True, loss=loss, reference_loss=reference, gate_clips=4, fixed_loss=loss)


class Noted(CountingTrainer):
    """Says which rates it was started with, and from which step."""

    started: list[tuple[int, int]]

    async def lines(self) -> AsyncIterator[bytes]:
        type(self).started.append((self.job.lowered, self.job.resume_steps))
        async for line in super().lines():
            yield line


def tip_of(peer: Peer) -> Any:
    tip = peer.node.board.tip(SLOT)
    return tip.card.record if tip else None


def is_at_rest(peer: Peer) -> bool:
    return rests(peer.node.board.tip(SLOT), time.time(), peer.node.spec.timing)


async def test_a_slot_that_gets_no_better_ends_at_its_best_checkpoint_and_rests_for_everybody(
    tmp_path: Path,
) -> None:
    Noted.started = []
    async with World(tmp_path) as world:
        owner = await world.add("owner", role="owner", gate=overfit_gate)
        lead = await world.add("lead", slot=SLOT, trainer=Noted, gate=overfit_gate)
        await world.until(lambda: is_at_rest(owner) and lead.volunteer.lead is None)
        assert [lowered for lowered, _ in Noted.started] == list(range(RESTS))
        assert {steps for _, steps in Noted.started} == {0, tip_of(owner).steps}
        await world.until(lambda: lead.volunteer.phase == "standby")
        assert "rests as converged" in lead.volunteer.why
        assert any(REASONS["loss"] in line and "refused" in line for line in lead.said), lead.said
        seen = slot_status(owner.node, SLOT, time.time())
        assert (seen.lowered, seen.loss, seen.lead) == (RESTS, held_out_loss(seen.steps), "")
        assert seen.news.startswith("rests as converged")
        assert (seen.outlook, seen.eta_s) == ("", None)  # nobody trains it

        newcomer = await world.add("newcomer", slot=SLOT, trainer=Noted, gate=overfit_gate)
        await lead.die()
        again = await world.restart("lead", lead, slot=SLOT, trainer=Noted, gate=overfit_gate)
        await world.until(lambda: {newcomer.volunteer.phase, again.volunteer.phase} == {"standby"})
        assert len(Noted.started) == RESTS
        for peer in (owner, again):  # one checkpoint is two files
            await world.until(lambda peer=peer: len(of_checkpoints(peer)) <= 2)


async def test_a_lead_that_leaves_waits_no_longer_for_a_last_checkpoint_that_was_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paris_p2p.peer.volunteer.PAUSE_ATTEST_S", 3600.0)
    worse = asyncio.Event()

    async def gate(job: GateJob) -> GateResult:
        loss = 9.0 if worse.is_set() else 1.0
        return GateResult(ok=True, loss=loss, reference_loss=1.0, gate_clips=4, fixed_loss=loss)

    async with World(tmp_path) as world:
        owner = await world.add("owner", role="owner", gate=gate)
        lead = await world.add("lead", slot=SLOT, gate=gate)
        await world.until(lambda: tip_of(owner) is not None and lead.volunteer.lead is not None)
        worse.set()
        await lead.volunteer.pause()
        assert any("the last checkpoint of expert-0 was refused" in line for line in lead.said), lead.said
        assert not any("nobody attested" in line for line in lead.said)


async def test_a_card_that_goes_back_is_told_once_however_long_the_telling_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    tell_card = outbox.tell_card

    async def slow(node: RunNode, card: Any) -> None:
        told.append(card.record)
        if card.record.lowered:
            await asyncio.sleep(1.0)  # longer than a lead's task gathers news
        await tell_card(node, card)

    monkeypatch.setattr(outbox, "tell_card", slow)
    async with World(tmp_path) as world:
        owner = await world.add("owner", role="owner", gate=overfit_gate)
        await world.add("lead", slot=SLOT, gate=overfit_gate)
        await world.until(lambda: tip_of(owner) is not None and tip_of(owner).lowered == 1)
        back = [card for card in told if card.lowered == 1]
        assert back[0] not in back[1:]


def of_checkpoints(peer: Peer) -> list[str]:
    return [blob for blob in peer.node.host.store.ids() if blob not in peer.node.data_blobs()]


async def test_false_refusals_of_many_keys_neither_stop_a_slot_nor_lower_its_rate(tmp_path: Path) -> None:
    Noted.started = []
    liar = Identity.generate()

    async def false(job: GateJob) -> GateResult:
        return GateResult(
            ok=False, code="loss", reason=REASONS["loss"], loss=9.0, reference_loss=1.0, gate_clips=4
        )

    async with World(tmp_path) as world:
        lead = await world.add("lead", slot=SLOT, trainer=Noted)
        owner = await world.add("owner", role="owner")
        await world.add("liar", role="owner", gate=false, identity=liar)
        await world.until(lambda: tip_of(lead) is not None and bool(lead.node.board.pending(SLOT)))
        made_up = [Identity.generate() for _ in range(50)]
        before = tip_of(lead).seq

        def refuse_all() -> bool:
            for card in lead.node.board.pending(SLOT):
                for key in made_up:
                    lead.node.keep(seal(key, refusal(card.record, card.id)))
            return bool(tip_of(owner).seq >= before + 2)

        await world.until(refuse_all)
        assert tip_of(owner).lowered == 0
        assert Noted.started == [(0, 0)]


def refusal(card: Any, card_id: str) -> RefusalRecord:
    now = time.time()
    head = {
        "run": card.run,
        "slot": card.slot,
        "seq": card.seq,
        "issued_at": now,
        "expires_at": now + SIGNED_LIFETIME_S["refusal"],
    }
    return RefusalRecord(
        **head,
        epoch=card.epoch,
        card=card_id,
        parent=card.parent,
        reason="loss",
        loss=9.0,
        reference_loss=1.0,
    )


async def test_a_lead_that_goes_back_for_no_reason_finds_no_attestor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paris_p2p.rules.next_card.attest_patience_s", lambda _: 1.0)
    async with World(tmp_path) as world:
        owner = await world.add("owner", role="owner")
        lead = await world.add("lead", slot=SLOT)
        await world.until(lambda: tip_of(owner) is not None and lead.volunteer.lead is not None)
        assert lead.volunteer.lead is not None
        lead.volunteer.lead.setback.came.set()
        await world.until(
            lambda: any("nobody attested that expert-0 goes back" in line for line in lead.said)
        )
        seq = tip_of(owner).seq
        await world.until(lambda: tip_of(owner).seq > seq)  # and training goes on
        assert tip_of(owner).lowered == 0


async def test_two_attestors_must_both_have_measured_it_before_a_slot_goes_back(tmp_path: Path) -> None:
    names = [Identity.generate(), Identity.generate()]
    gate = GateSpec(quorum=2, members_attest=False, attestors=tuple(name.peer_id for name in names))
    async with World(tmp_path, gate=gate) as world:
        owners = [
            await world.add(f"owner {name.peer_id[-4:]}", role="owner", gate=overfit_gate, identity=name)
            for name in names
        ]
        await world.add("lead", slot=SLOT, gate=overfit_gate)
        await world.until(lambda: tip_of(owners[0]) is not None and tip_of(owners[0]).lowered >= 1)
        tip = owners[0].node.board.tip(SLOT)
        assert tip is not None
        assert {one.signer for one in tip.attestations} == {name.peer_id for name in names}


class Heavy(CountingTrainer):
    """Checkpoints of 64 KiB a file, each another."""

    def _checkpoint(self, steps: int) -> bytes:
        line = super()._checkpoint(steps)
        for name in (f"w{steps}", f"r{steps}"):
            (self.job.out_dir / name).write_bytes(os.urandom(64 << 10))
        return line


async def test_the_disk_stays_small_however_many_checkpoints_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paris_p2p.peer.seeding._FIRST_LOOK_S", 0.1)
    monkeypatch.setattr("paris_p2p.peer.seeding._PAUSE_S", 0.1)
    monkeypatch.setattr("paris_p2p.rules.next_card.attest_patience_s", lambda _: 0.5)
    first = list[str]()

    async def one_good(job: GateJob) -> GateResult:
        first.append(job.card)
        return (
            await good_gate(job)
            if job.card == first[0]
            else GateResult(ok=False, reason="a tensor is not finite")
        )

    async with World(tmp_path) as world:
        owner = await world.add("owner", role="owner", gate=one_good)
        lead = await world.add("lead", slot=SLOT, trainer=Heavy)
        await world.until(lambda: owner.node.refused["a tensor is not finite"] >= 6)
        limit_bytes = 4 * 2 * (64 << 10)  # the tip, two waiting ones, and the one that is under way
        for peer in (owner, lead):
            await world.until(lambda peer=peer: peer.node.host.store.used_bytes() < limit_bytes)
        await lead.die()
        await world.until(lambda: len(of_checkpoints(owner)) == 2)  # the tip's
        owner.task.cancel()
        again = await world.restart("owner", owner, role="owner", gate=one_good)
        assert again.node.keeping._here >= set(of_checkpoints(again))  # and what was about to come


async def test_what_an_attestor_measured_is_known_after_a_restart(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        owner = await world.add("owner", role="owner", gate=overfit_gate)
        await world.add("lead", slot=SLOT, gate=overfit_gate)
        await world.until(lambda: owner.node.refused[REASONS["loss"]] >= 1)
        mine = owner.volunteer.attestor.refusals
        again = Refusals(owner.node, lambda _: None)
        assert again._cards == mine._cards
        assert [one.id for one in again._mine[SLOT]] == [one.id for one in mine._mine[SLOT]]
        owner.node.ledger.put(f"refusals/{SLOT}", b"\xc1")
        assert not Refusals(owner.node, lambda _: None)._cards


async def test_a_first_checkpoint_that_is_never_good_ends_the_leadership(tmp_path: Path) -> None:
    Noted.started = []

    async def bad(job: GateJob) -> GateResult:
        return GateResult(ok=True, loss=2.0, reference_loss=1.0, gate_clips=4)

    async with World(tmp_path) as world:
        await world.add("owner", role="owner", gate=bad)
        lead = await world.add("lead", slot=SLOT, trainer=Noted, gate=bad)
        await world.until(
            lambda: any("gave up expert-0" in line and "first checkpoint" in line for line in lead.said)
        )
        assert Noted.started == [(lowered, 0) for lowered in range(RESTS)]
