"""What peers do when the run's owner speaks, on a fake network: pause, end, take back, revoke, extend."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from paris_p2p.errors import RevokedError
from paris_p2p.identity import Identity
from paris_p2p.owner_records import Admit, End, Extend, Pause, Resume, Revoke, RevokeCard
from paris_p2p.rules import standing
from paris_p2p.rules.tips import Tip
from paris_p2p.run_file import read_effective
from paris_p2p.training.messages import GateJob, GateResult, TrainJob
from tests.peer.world import TIMING, CountingTrainer, Peer, World, good_gate

SLOT = "expert-0"
OWNER_NODE = Identity.generate()
UNHURRIED = TIMING.model_copy(update={"claim_s": 60.0})  # no claim lapses meanwhile


def tip(peer: Peer) -> Tip:
    found = peer.node.board.tip(SLOT)
    assert found is not None
    return found


def seq(peer: Peer) -> int:
    return tip(peer).card.record.seq if peer.node.board.tip(SLOT) else 0


class Recording(CountingTrainer):
    """Keeps the jobs of all trainers."""

    jobs: list[TrainJob]

    async def start(self, job: TrainJob, *, nice: int = 0) -> None:  # type: ignore[override]
        await super().start(job, nice=nice)
        self.jobs.append(job)


def recording() -> type[Recording]:
    class Mine(Recording):
        jobs: list[TrainJob] = []

    return Mine


async def test_a_paused_run_rests_with_its_last_checkpoint_attested_and_goes_on_when_resumed(
    tmp_path: Path,
) -> None:
    async with World(tmp_path, timing=UNHURRIED) as world:
        lead = await world.add("lead", slot=SLOT)
        owner = await world.add("owner", role="owner")
        await world.until(lambda: lead.volunteer.lead is not None and lead.volunteer.lead.training.steps > 3)
        await world.say(Pause(reason="night"), through=owner)
        await world.until(lambda: lead.volunteer.phase == "paused")
        assert lead.volunteer.lead is None
        assert "paused by the owner (notice 1, " in lead.volunteer.why
        assert ": night)" in lead.volunteer.why
        assert all(claim.record.released for claim in owner.node.board.claims(SLOT))
        resting = tip(owner)
        assert resting.card.record.steps > 3  # what it had learned was published and attested
        assert owner.volunteer.phase == "paused"
        await world.say(Resume(), through=owner)
        await world.until(lambda: seq(owner) > resting.card.record.seq)
        assert tip(owner).card.record.steps > resting.card.record.steps


async def test_a_peer_that_starts_again_in_a_paused_run_rests(tmp_path: Path) -> None:
    async with World(tmp_path, timing=UNHURRIED) as world:
        peer = await world.add("a", slot=SLOT)
        await world.say(Pause())
        await world.until(lambda: peer.volunteer.phase == "paused")
        await peer.die()
        again = await world.restart("a", peer, slot=SLOT)
        await world.until(lambda: again.volunteer.phase == "paused")
        assert again.volunteer.lead is None


async def test_after_the_end_nobody_trains_nor_attests_what_is_newer_and_all_go_on_seeding(
    tmp_path: Path,
) -> None:
    async with World(tmp_path, timing=UNHURRIED) as world:
        lead = await world.add("lead", slot=SLOT)
        owner = await world.add("owner", role="owner")
        await world.until(lambda: seq(owner) >= 1)
        await world.say(End(reason="it is good"), through=owner)
        await world.until(lambda: lead.volunteer.phase == "ended" and owner.volunteer.phase == "ended")
        ended_s = world.notices[0].record.issued_at
        assert tip(owner).card.record.issued_at <= ended_s
        assert "it is good" in lead.volunteer.why
        assert not lead.task.done()
        assert lead.node.serves(tip(lead).card.record.weights.id)
        assert all(state.done for state in lead.volunteer.claimer.states())


async def test_a_card_that_is_taken_back_takes_all_after_it_and_training_starts_from_the_one_before(
    tmp_path: Path,
) -> None:
    async with World(tmp_path, timing=UNHURRIED) as world:
        trainer = recording()
        lead = await world.add("lead", slot=SLOT, trainer=trainer)
        owner = await world.add("owner", role="owner")
        await world.until(lambda: seq(owner) >= 3 and seq(lead) >= 3)
        bad, epoch = tip(owner).card, tip(owner).card.record.epoch
        floor = epoch + 1
        await world.say(RevokeCard(slot=SLOT, card=bad.id, place=bad.record.seq, floor=floor), through=owner)
        await world.until(lambda: tip(lead).card.record.epoch >= floor)
        fresh = tip(lead).card
        await world.until(lambda: tip(owner).card.record.epoch >= floor)
        assert fresh.record.seq == bad.record.seq
        before = fresh.record.parent
        assert before == bad.record.parent
        [start] = [job for job in trainer.jobs if job.resume_steps][:1]
        assert start.resume_path is not None
        assert start.resume_steps < bad.record.steps
        assert any("took back a card of expert-0" in line for line in lead.said)


async def test_a_check_of_a_card_that_is_taken_back_ends_and_the_next_one_is_checked(tmp_path: Path) -> None:
    checks = list[GateJob]()

    async def hangs_once(job: GateJob) -> GateResult:
        checks.append(job)
        if len(checks) == 2:
            await asyncio.Event().wait()
        return await good_gate(job)

    async with World(tmp_path, timing=UNHURRIED) as world:
        await world.add("lead", slot=SLOT)
        owner = await world.add("owner", role="owner", gate=hangs_once)
        await world.until(lambda: len(checks) == 2)
        [card] = [one for one in owner.node.board.pending(SLOT) if one.id == checks[1].card]
        floor = card.record.epoch + 1
        await world.say(
            RevokeCard(slot=SLOT, card=card.id, place=card.record.seq, floor=floor), through=owner
        )
        await world.until(lambda: tip(owner).card.record.epoch >= floor)
        assert tip(owner).card.record.parent == card.record.parent
        assert len(checks) >= 3


async def test_every_peer_goes_back_to_the_card_before_at_once_and_it_can_be_fetched(tmp_path: Path) -> None:
    async with World(tmp_path, timing=UNHURRIED) as world:
        lead = await world.add("lead", slot=SLOT)
        owner = await world.add("owner", role="owner")
        seeder = await world.add("seeder", slot="router")
        await world.until(lambda: min(seq(peer) for peer in world.peers) >= 2)
        await world.say(Pause(), through=owner)
        await world.until(lambda: lead.volunteer.phase == "paused")
        await world.until(lambda: len({tip(peer).card.id for peer in world.peers}) == 1)
        bad = tip(owner).card
        floor = bad.record.epoch + 1
        await world.say(RevokeCard(slot=SLOT, card=bad.id, place=bad.record.seq, floor=floor), through=owner)
        for peer in world.peers:
            await world.until(lambda peer=peer: tip(peer).card.id == bad.record.parent)
        for ref in (tip(owner).card.record.weights, tip(owner).card.record.resume):
            assert owner.node.host.store.has(ref.id)  # it stayed while another was the tip
            assert owner.node.serves(ref.id)
            await seeder.node.fetch([ref], tip(owner).card.id)


async def test_a_revoked_lead_is_replaced_at_once_and_its_own_program_ends_with_a_clear_word(
    tmp_path: Path,
) -> None:
    async with World(tmp_path, timing=UNHURRIED) as world:
        lead = await world.add("lead", slot=SLOT)
        await world.until(lambda: seq(lead) >= 0 and lead.volunteer.lead is not None)
        heir = await world.add("heir", slot=SLOT)
        owner = await world.add("owner", role="owner")
        await world.until(lambda: seq(owner) >= 1)
        world.peers.remove(lead)  # its task ends with an error, as it should
        began_s = time.monotonic()
        await world.say(Revoke(peer=lead.node.peer_id), through=owner)
        await world.until(lambda: heir.volunteer.lead is not None)
        assert time.monotonic() - began_s < UNHURRIED.claim_s / 2  # nobody waited for the claim's end
        with pytest.raises(RevokedError, match=r"revoked this peer \(notice 1, .*ask the owner"):
            await asyncio.wait_for(lead.task, 30)
        assert lead.volunteer.lead is None
        await lead.stack.aclose()
        last = tip(owner).card.record.seq
        await world.until(lambda: seq(owner) > last)
        assert tip(owner).card.signer == heir.node.peer_id


async def test_an_extended_run_restarts_the_trainer_at_its_next_checkpoint_and_loses_no_step(
    tmp_path: Path,
) -> None:
    async with World(tmp_path, timing=UNHURRIED) as world:
        trainer = recording()
        lead = await world.add("lead", slot=SLOT, trainer=trainer)
        owner = await world.add("owner", role="owner")
        await world.until(lambda: seq(owner) >= 1)
        leading = lead.volunteer.lead
        assert leading is not None
        epoch = leading.epoch
        await world.say(Extend(total_steps=10**6), through=owner)
        await world.until(lambda: len(trainer.jobs) == 2)
        first, second = trainer.jobs
        assert lead.volunteer.lead is leading  # under the same claim
        assert leading.epoch == epoch
        assert (first.notices, first.effective_path) == (0, None)
        assert second.notices == 1
        assert second.effective_path is not None
        assert read_effective(second.effective_path, world.run.record).training.total_steps == 10**6
        assert second.resume_steps > first.resume_steps
        assert second.resume_path is not None
        await world.until(lambda: tip(owner).card.record.notices == 1)
        card = tip(owner).card.record
        assert card.oldest_reader == 4  # who knows no notices does not look at it
        assert card.steps > second.resume_steps
        assert len(trainer.jobs) == 2  # once


async def test_a_shorter_checkpoint_interval_counts_at_once(tmp_path: Path) -> None:
    slow = UNHURRIED.model_copy(update={"checkpoint_s": 3600.0})
    async with World(tmp_path, timing=slow) as world:

        class Patient(CountingTrainer):
            checkpoint_steps = 10**9

        lead = await world.add("lead", slot=SLOT, trainer=Patient)
        owner = await world.add("owner", role="owner")
        await world.until(lambda: lead.volunteer.lead is not None and lead.volunteer.lead.training.steps > 3)
        await world.say(Extend(checkpoint_s=1.0), through=owner)
        await world.until(lambda: seq(owner) >= 1)


async def test_a_slot_that_had_all_its_steps_goes_on_when_the_run_is_extended(tmp_path: Path) -> None:
    async with World(tmp_path, timing=UNHURRIED) as world:
        lead = await world.add("lead", slot=SLOT)
        owner = await world.add("owner", role="owner")
        await world.until(lambda: seq(owner) >= 1)
        await world.say(Extend(total_steps=tip(owner).card.record.steps), through=owner)
        await world.until(lambda: lead.volunteer.phase == "standby")
        assert "it reached the last step" in "".join(lead.said)
        assert all(state.done for state in lead.volunteer.claimer.states() if state.slot == SLOT)
        at = tip(owner).card.record
        await world.say(Extend(total_steps=10**6), through=owner)
        await world.until(lambda: seq(owner) > at.seq)
        assert tip(owner).card.record.steps > at.steps


async def test_an_owner_that_contradicts_itself_makes_peers_rest_and_they_say_whose_fault_it_is(
    tmp_path: Path,
) -> None:
    async with World(tmp_path, timing=UNHURRIED) as world:
        lead = await world.add("lead", slot=SLOT)
        owner = await world.add("owner", role="owner")
        await world.until(lambda: seq(owner) >= 1)
        await world.say(Extend(tolerance=0.5), through=owner)
        await world.until(lambda: lead.node.state.number == 1)
        await world.hand(world.notice(Pause(), 1), lead)
        await world.until(lambda: lead.volunteer.phase == "contradicted")
        assert lead.volunteer.lead is None
        assert "contradicts itself" in lead.volunteer.why
        assert (
            sum("contradicts itself" in line and line.startswith("contradicted") for line in lead.said) == 1
        )
        before = seq(owner)
        assert lead.node.serves(tip(lead).card.record.weights.id)
        await asyncio.sleep(2 * TIMING.checkpoint_s)
        assert seq(owner) == before


async def test_a_peer_whose_right_to_train_ends_publishes_in_time_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing, "ENDING_S", 2.0)
    members = {"members_only": True, "owner_node": OWNER_NODE.peer_id}
    async with World(tmp_path, timing=UNHURRIED, **members) as world:
        owner = await world.add("owner", role="owner", identity=OWNER_NODE)
        me, stranger = Identity.generate(), await world.add("stranger", slot=SLOT)
        until_s = time.time() + 7.0
        await world.say(Admit(peer=me.peer_id, rights=("train", "attest"), until=until_s), through=owner)
        lead = await world.add("lead", slot=SLOT, identity=me)
        await world.until(lambda: seq(owner) >= 1)
        await world.until(lambda: lead.volunteer.phase == "not admitted")
        last = tip(owner).card.record
        assert last.issued_at < until_s  # its last checkpoint counts
        assert "ask the owner for a new invite" in lead.volunteer.why
        assert lead.volunteer.lead is None
        assert stranger.volunteer.phase == "not admitted"
        assert "no member" in stranger.volunteer.why
        assert owner.volunteer.phase == "seeding"
        governed = (await owner.volunteer.status()).governance
        assert (governed.members_only, governed.rights_end_s) == (True, None)
        assert governed.members >= 1
        assert [(one.number, one.act) for one in governed.last] == [(1, "admit")]
        mine = (await lead.volunteer.status()).governance
        assert mine.rights_end_s == until_s or not mine.rights
