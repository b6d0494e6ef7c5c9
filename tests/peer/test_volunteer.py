"""A peer's life on a fake network: claims, hand-over, pause, fences."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from paris_p2p.envelope import open_envelope
from paris_p2p.errors import DaemonError, DiskFullError, MissingKeyError, UnreachableError
from paris_p2p.node import publish
from paris_p2p.peer.lead import Lead
from paris_p2p.records import BlobRef, ClaimRecord
from paris_p2p.rules.placement import attest_patience_s
from paris_p2p.spec import GateSpec
from paris_p2p.training.messages import GateJob, GateResult, TrainJob
from tests.peer.world import TIMING, CountingTrainer, Peer, World, good_gate
from tests.store.made import add_bytes

SLOT = "expert-0"


def leads_of(world: World, slot: str) -> list[str]:
    return [
        peer.node.peer_id
        for peer in world.peers
        if peer.volunteer.lead is not None and peer.volunteer.lead.slot == slot
    ]


def tip_seq(world: World, slot: str, of: int = 0) -> int:
    tip = world.peers[of].node.board.tip(slot)
    return tip.card.record.seq if tip else 0


async def test_two_peers_claiming_at_once_end_with_one_lead(tmp_path: Path) -> None:
    async with World(tmp_path, timing=TIMING.model_copy(update={"claim_s": 60.0})) as world:
        # no claim lapses meanwhile
        await asyncio.gather(world.add("a", slot="expert-0"), world.add("b", slot="expert-0"))
        await world.until(lambda: leads_of(world, "expert-0"))
        for _ in range(50):
            assert len(leads_of(world, "expert-0")) <= 1
            await asyncio.sleep(0.02)


async def test_every_slot_gets_its_own_lead_and_a_tip(tmp_path: Path) -> None:
    async with World(tmp_path, experts=2) as world:
        for name in "abc":
            await world.add(name)
        await world.until(lambda: all(tip_seq(world, slot) >= 1 for slot in world.run.record.slots))
        assert len({peer.volunteer.lead.slot for peer in world.peers if peer.volunteer.lead}) == 3


async def test_a_lead_that_dies_is_replaced_and_the_successor_goes_on_from_the_tip(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        first = await world.add("first", slot="expert-0")
        standby = await world.add("standby", slot="expert-0")
        await world.until(lambda: tip_seq(world, "expert-0", of=1) >= 1)
        dead, heir = (first, standby) if first.volunteer.lead else (standby, first)
        at_death = heir.node.board.tip("expert-0")
        await dead.die()
        await world.until(lambda: heir.volunteer.lead is not None)
        lead = heir.volunteer.lead
        assert lead is not None
        assert at_death is not None
        await world.until(lambda: lead.training.steps > 0)
        tip = heir.node.board.tip("expert-0")
        assert tip is not None
        assert lead.epoch == at_death.card.record.epoch + 1
        assert lead.training.steps >= at_death.card.record.steps


async def test_a_stale_lead_that_comes_back_cannot_overwrite_its_successor(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        stale = await world.add("stale", slot="expert-0")
        heir = await world.add("heir", role="peer", slot="router")
        owner = await world.add("owner", role="owner")
        await world.until(lambda: tip_seq(world, "expert-0", of=2) >= 1)
        stale.swarm.offline = True  # the plug is pulled; it trains on and knows nothing
        heir.volunteer.claimer.only = "expert-0"
        if heir.volunteer.lead is not None:
            heir.volunteer.lead.stop("test")
        await world.until(lambda: heir.volunteer.lead is not None and heir.volunteer.lead.slot == "expert-0")
        epoch = heir.volunteer.lead.epoch if heir.volunteer.lead else 0
        await world.until(
            lambda: (tip := owner.node.board.tip("expert-0")) is not None and tip.card.record.epoch == epoch
        )
        stale.swarm.offline = False
        await world.until(lambda: stale.volunteer.lead is None)
        tip = owner.node.board.tip("expert-0")
        assert tip is not None
        assert tip.card.signer == heir.node.peer_id
        assert leads_of(world, "expert-0") == [heir.node.peer_id]


async def test_pause_releases_the_claim_and_resume_takes_it_again(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        peer = await world.add("a", slot="expert-0")
        await world.add("owner", role="owner")
        await world.until(lambda: tip_seq(world, "expert-0") >= 1)
        await peer.volunteer.pause()
        assert peer.volunteer.lead is None
        claims = peer.node.board.claims("expert-0")
        assert all(isinstance(claim.record, ClaimRecord) and claim.record.released for claim in claims)
        before = tip_seq(world, "expert-0")
        await peer.volunteer.resume()
        await world.until(lambda: tip_seq(world, "expert-0") > before)


async def test_leaving_waits_until_another_peer_holds_the_last_checkpoint(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        peer = await world.add("a", slot="expert-0")
        owner = await world.add("owner", role="owner")
        await world.until(lambda: peer.volunteer.lead is not None and peer.volunteer.lead.training.steps > 3)
        steps = peer.volunteer.lead.training.steps if peer.volunteer.lead else 0
        assert await peer.volunteer.leave() == "leaving: publishing the last checkpoint first"
        await asyncio.wait_for(peer.task, 120)
        assert await owner.volunteer.leave() == "leaving"  # it leads nothing
        tip = owner.node.board.tip("expert-0")
        assert tip is not None
        assert tip.card.record.steps >= steps
        assert owner.node.host.store.has(tip.card.record.resume.id)


async def test_a_pause_signs_what_was_learned_however_late_that_is_begun_and_where_nobody_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a slow machine, the last checkpoint is not looked at before its card is waited for."""
    ending = asyncio.Event()
    send_cards, last_card = Lead._send_cards, Lead._last_card

    async def late(lead: Lead) -> None:
        await ending.wait()
        await send_cards(lead)

    async def wait(lead: Lead, wait_s: float) -> None:
        ending.set()
        await last_card(lead, wait_s)

    monkeypatch.setattr(Lead, "_send_cards", late)
    monkeypatch.setattr(Lead, "_last_card", wait)
    async with World(tmp_path) as world:
        peer = await world.add("a", slot="expert-0")
        await world.until(lambda: peer.volunteer.lead is not None and peer.volunteer.lead.training.steps > 3)
        steps = peer.volunteer.lead.training.steps if peer.volunteer.lead else 0
        await peer.volunteer.pause()
        assert [card.record.steps >= steps for card in peer.node.board.pending("expert-0")] == [True]


async def test_what_was_learned_after_an_unattested_card_is_not_lost_by_a_pause_with_nobody_there(
    tmp_path: Path,
) -> None:
    timing = TIMING.model_copy(
        update={"checkpoint_s": 600.0}
    )  # so long that the first card is young all along
    async with World(tmp_path, timing=timing) as world:
        peer = await world.add("a", slot=SLOT)
        await world.until(lambda: peer.node.board.pending(SLOT))
        first = peer.node.board.pending(SLOT)[0].record.steps
        await world.until(lambda: peer.volunteer.lead and peer.volunteer.lead.training.steps > first + 15)
        steps = peer.volunteer.lead.training.steps if peer.volunteer.lead else 0
        await peer.volunteer.pause()
        assert max(card.record.steps for card in peer.node.board.pending(SLOT)) >= steps
        await peer.die()
        owner = await world.add("owner", role="owner")
        await world.restart("a", peer, slot=SLOT)  # it is paused still, and tells what it signed
        await world.until(lambda: tip_seq(world, SLOT) == 1)
        tip = owner.node.board.tip(SLOT)
        assert tip is not None
        assert tip.card.record.steps >= steps


class OnlyWhenAsked(CountingTrainer):
    """Makes a checkpoint when it is told to and not before."""

    checkpoint_steps = 10**9


def _fails_once(error: Exception, at: int) -> Callable[[Any], Any]:
    """Has a function fail at its call number `at`."""
    calls = itertools.count(1)

    def patched(function: Any) -> Any:
        def called(*args: Any, **named: Any) -> Any:
            if next(calls) == at:
                raise error
            return function(*args, **named)

        return called

    return patched


@pytest.mark.parametrize(
    ("error", "at"),
    [
        (UnreachableError("the run has a new key, which is not here yet"), 0),
        (MissingKeyError("this run is sealed and its key 2 is not here yet"), 1),
        (MissingKeyError("this run is sealed and its key 2 is not here yet"), 2),
        (DiskFullError("no space left"), 1),
        (DiskFullError("no space left"), 2),
    ],
)
async def test_a_checkpoint_that_cannot_be_signed_just_then_is_signed_later(
    error: Exception, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`at` is the file that does not get into the store; 0: both do, and the card is not signed."""
    for name in "_RETRY_S", "_NO_ROOM_S":
        monkeypatch.setattr(f"paris_p2p.peer.lead.{name}", 0.0)
    monkeypatch.setattr("paris_p2p.peer.volunteer.PAUSE_ATTEST_S", 60.0)
    timing = TIMING.model_copy(update={"checkpoint_s": 600.0})
    async with World(tmp_path, timing=timing) as world:
        peer = await world.add("a", slot=SLOT, trainer=OnlyWhenAsked)
        await world.until(lambda: peer.volunteer.lead and peer.volunteer.lead.training.steps > 3)
        lead = peer.volunteer.lead
        steps = lead.training.steps if lead else 0
        if at:
            monkeypatch.setattr(peer.node.blobs, "add", _fails_once(error, at)(peer.node.blobs.add))
        else:
            sign = _fails_once(error, 1)(publish._sign)
            monkeypatch.setattr(publish, "_sign", sign)
        await peer.volunteer.pause()
        assert any("no space left" in said or "key" in said for said in peer.said)
        assert [card.record.steps >= steps for card in peer.node.board.pending(SLOT)] == [True]
        assert peer.node.rounds.is_whole(peer.node.board.pending(SLOT)[0].record)


async def test_a_trainer_that_dies_goes_on_from_the_newest_checkpoint(tmp_path: Path) -> None:
    starts: list[int] = []

    class Dying(CountingTrainer):
        async def lines(self):  # type: ignore[no-untyped-def]
            starts.append(self.job.resume_steps)
            async for line in super().lines():
                yield line
                if len(starts) == 1 and b"checkpoint_ready" in line:
                    return  # as SIGKILL would: no last word

    async with World(tmp_path) as world:
        await world.add("a", slot="expert-0", trainer=Dying)
        await world.add("owner", role="owner")
        await world.until(lambda: len(starts) >= 2)
        assert starts[1] == 10


async def test_a_trainer_that_keeps_dying_gives_the_slot_up(tmp_path: Path) -> None:
    class Broken(CountingTrainer):
        async def lines(self):  # type: ignore[no-untyped-def]
            self.last_words.append("CUDA is on fire")
            return
            yield b""

    async with World(tmp_path) as world:
        peer = await world.add("a", slot="expert-0", trainer=Broken)
        await world.until(
            lambda: any("gave up expert-0" in line and "CUDA is on fire" in line for line in peer.said)
        )
        assert all(claim.record.released for claim in peer.node.board.claims("expert-0"))


async def test_a_card_whose_gate_fails_is_counted_never_attested_and_never_seeded(tmp_path: Path) -> None:
    async def strict(job: GateJob) -> GateResult:
        return GateResult(ok=False, reason="a tensor is not finite")

    async with World(tmp_path) as world:
        await world.add("a", slot="expert-0")
        owner = await world.add("owner", role="owner", gate=strict)
        await world.until(lambda: owner.node.refused["a tensor is not finite"] >= 1)
        assert owner.node.board.tip("expert-0") is None
        (card,) = owner.node.board.pending("expert-0")[:1]
        assert owner.node.host.store.has(card.record.weights.id)
        assert owner.node.host.shown_to("", "blobs", "", "").manifest_bytes(card.record.weights.id) is None


async def test_a_worse_held_out_loss_is_refused(tmp_path: Path) -> None:
    seen: list[int] = []

    async def worse(job: GateJob) -> GateResult:
        seen.append(job.steps)
        return GateResult(ok=True, loss=2.0 if job.steps > seen[0] else 0.5, reference_loss=1.0, gate_clips=4)

    async with World(tmp_path, gate=GateSpec(tolerance=0.05)) as world:
        await world.add("a", slot="expert-0")
        owner = await world.add("owner", role="owner", gate=worse)
        await world.until(lambda: sum(owner.node.refused.values()) >= 1)
        tip = owner.node.board.tip("expert-0")
        assert tip is not None
        assert tip.card.record.steps == seen[0]


async def test_a_maker_that_fell_silent_holds_up_no_other_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(job: GateJob) -> GateResult:
        await asyncio.Event().wait()
        raise AssertionError

    async with World(tmp_path) as world:
        owner = await world.add("owner", role="owner")
        fetch, asked = owner.node.fetch, asyncio.Event()

        async def silent_for_experts(refs: Sequence[BlobRef], what: str, *more: Any) -> list[Path]:
            if any(card.id == what for card in owner.node.board.pending("expert-0")):
                asked.set()
                await asyncio.Event().wait()
            return await fetch(refs, what, *more)

        monkeypatch.setattr(owner.node, "fetch", silent_for_experts)
        await world.add("a", slot="expert-0", gate=never)
        await asyncio.wait_for(asked.wait(), 120)
        await world.add("b", slot="router", gate=never)
        await world.until(lambda: tip_seq(world, "router") >= 1)
        assert tip_seq(world, "expert-0") == 0


async def test_an_open_run_counts_only_its_named_attestors(tmp_path: Path) -> None:
    async with World(tmp_path, gate=GateSpec(members_attest=False)) as world:
        await world.add("a", slot="expert-0")
        stranger = await world.add("stranger", slot="router")
        await world.until(lambda: bool(stranger.node.board.pending("expert-0")))
        await asyncio.sleep(0.5)
        assert stranger.volunteer.attestor.attested == 0
        assert tip_seq(world, "expert-0", of=1) == 0


@pytest.mark.parametrize("name", ["add_file", "put", "store_record"])
async def test_a_crash_at_any_write_of_a_publish_leaves_the_old_tip_or_the_new(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path) as world:
        peer = await world.add("a", slot="expert-0")
        owner = await world.add("owner", role="owner")
        await world.until(lambda: tip_seq(world, "expert-0", of=1) >= 1)
        before = tip_seq(world, "expert-0", of=1)
        target = {"add_file": peer.node.host.store, "put": peer.node.ledger, "store_record": peer.swarm}[name]

        def crash(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(target, name, crash)
        await asyncio.gather(peer.task, return_exceptions=True)
        tip = owner.node.board.tip("expert-0")
        assert tip is not None
        assert tip.card.record.seq in (before, before + 1)
        assert owner.node.host.store.has(tip.card.record.resume.id)
        assert time.time() < tip.card.record.expires_at


async def test_training_never_continues_a_card_it_does_not_descend_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paris_p2p.peer.volunteer.PAUSE_ATTEST_S", 0.2)
    slow, go_on = asyncio.Event(), asyncio.Event()

    async def gate(job: GateJob) -> GateResult:
        if slow.is_set():
            await go_on.wait()
        return await good_gate(job)

    async with World(tmp_path) as world:
        peer = await world.add("a", slot="expert-0")
        owner = await world.add("owner", role="owner", gate=gate)
        await world.until(lambda: tip_seq(world, "expert-0", of=1) >= 1)
        slow.set()
        await world.until(lambda: bool(owner.node.board.pending("expert-0")))
        await peer.volunteer.pause()  # its last card is out, and nobody has attested it yet
        peer.node.ledger.delete(f"own-card/{SLOT}")  # as damaged: nobody knows here what it descends from
        await peer.volunteer.resume()  # so it goes on from the tip before that card
        await world.until(lambda: peer.volunteer.lead is not None and peer.volunteer.lead.training.steps > 0)
        go_on.set()
        await world.until(
            lambda: any("is not what this training descends from" in line for line in peer.said)
        )
        late = owner.node.board.tip("expert-0")
        assert late is not None
        await world.until(lambda: tip_seq(world, "expert-0", of=1) > late.card.record.seq)
        tip = owner.node.board.tip("expert-0")
        assert tip is not None
        assert tip.card.record.steps > late.card.record.steps


async def test_what_went_out_before_an_earlier_card_became_the_tip_follows_it_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a cut: the attestor is still at the card from before, and a newer one for the same place is
    out already.
    """
    timing = TIMING.model_copy(update={"claim_s": 30.0, "checkpoint_s": 2.0})
    monkeypatch.setattr(
        "paris_p2p.peer.volunteer.PAUSE_ATTEST_S", 0.75 * attest_patience_s(timing.checkpoint_s)
    )
    slow, go_on = asyncio.Event(), asyncio.Event()

    async def gate(job: GateJob) -> GateResult:
        if slow.is_set():
            await go_on.wait()
        return await good_gate(job)

    async with World(tmp_path, timing=timing) as world:
        peer = await world.add("a", slot="expert-0")
        owner = await world.add("owner", role="owner", gate=gate)
        await world.until(lambda: tip_seq(world, "expert-0", of=1) >= 1)
        slow.set()
        await world.until(lambda: len(owner.node.board.pending("expert-0")) >= 2)
        steps = max(card.record.steps for card in owner.node.board.pending("expert-0"))
        pausing = asyncio.create_task(peer.volunteer.pause())
        go_on.set()
        await pausing
        assert any("an earlier checkpoint became expert-0 seq" in line for line in peer.said)
        assert not any("nobody attested the last checkpoint" in line for line in peer.said)
        tip = owner.node.board.tip("expert-0")
        assert tip is not None
        assert tip.card.record.steps >= steps


def fail_once(peer: Peer, monkeypatch: pytest.MonkeyPatch, kind: str) -> list[str]:
    """The next record of a kind meets a daemon that is being restarted; returns what failed."""
    publish, failed = peer.swarm.publish, list[str]()

    async def once(topic: str, data: bytes) -> None:
        if not failed and open_envelope(data, run=peer.node.run).record.kind == kind:
            failed.append(kind)
            raise DaemonError("p2pd ended the conversation; it is being restarted")
        await publish(topic, data)

    monkeypatch.setattr(peer.swarm, "publish", once)
    return failed


async def test_a_daemon_that_dies_while_a_slot_is_claimed_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paris_p2p.peer.volunteer._RETRY_S", 0.1)
    async with World(tmp_path) as world:
        await world.add("owner", role="owner")
        peer = await world.add("a", slot="expert-0")
        failed = fail_once(peer, monkeypatch, "claim")
        await world.until(lambda: tip_seq(world, "expert-0") >= 1)
        assert failed
        assert any("could not claim a slot: p2pd ended the conversation" in line for line in peer.said)


async def test_a_daemon_that_dies_while_a_card_is_told_costs_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paris_p2p.peer.lead._RETRY_S", 0.1)
    starts: list[int] = []

    class Counted(CountingTrainer):
        async def lines(self):  # type: ignore[no-untyped-def]
            starts.append(self.job.resume_steps)
            async for line in super().lines():
                yield line

    async with World(tmp_path) as world:
        await world.add("owner", role="owner")
        peer = await world.add("a", slot="expert-0", trainer=Counted)
        await world.until(lambda: tip_seq(world, "expert-0") >= 1)
        failed, before = fail_once(peer, monkeypatch, "card"), tip_seq(world, "expert-0")
        await world.until(lambda: bool(failed) and tip_seq(world, "expert-0") > before)
        assert starts == [0]
        assert any("could not tell of the checkpoint of expert-0 yet" in line for line in peer.said)


async def test_leaving_does_not_wait_for_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with World(tmp_path) as world:
        peer = await world.add("a", slot="expert-0")
        began = asyncio.Event()

        async def forever(*_: object) -> None:
            began.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(peer.node, "fetch", forever)
        await asyncio.wait_for(began.wait(), 120)
        await peer.volunteer.leave()
        await asyncio.wait_for(peer.task, 120)
        assert all(claim.record.released for claim in peer.node.board.claims("expert-0"))


async def test_a_checkpoint_gets_the_room_of_what_nobody_needs(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        peer = await world.add("a", slot="expert-0")
        store = peer.node.host.store
        old = add_bytes(store, bytes(100_000))  # of an earlier run
        store.max_bytes = store.used_bytes()
        owner = await world.add("owner", role="owner")
        await world.until(lambda: tip_seq(world, "expert-0") >= 2)
        assert not store.has(old.id)
        assert owner.node.board.tip("expert-0") is not None
        assert not any("gave up" in line for line in peer.said)


async def test_with_fewer_peers_than_slots_every_slot_is_trained_in_turn(tmp_path: Path) -> None:
    async with World(tmp_path, experts=2) as world:
        await world.add("a")
        await world.add("b")
        await world.until(lambda: all(tip_seq(world, slot) >= 1 for slot in world.run.record.slots))
        assert any("going there" in line for peer in world.peers for line in peer.said)


async def test_a_slot_chosen_by_hand_is_never_left_for_another(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        peer = await world.add("a", slot="expert-0")
        await world.add("owner", role="owner")
        await world.until(lambda: tip_seq(world, "expert-0") >= 4)
        assert peer.volunteer.lead is not None
        assert peer.volunteer.lead.slot == "expert-0"
        assert tip_seq(world, "router") == 0


async def test_the_first_lead_fetches_what_the_run_starts_from_and_a_successor_needs_it_no_more(
    tmp_path: Path,
) -> None:
    async with World(tmp_path, initial=b"first weights") as world:
        owner = await world.add("owner", role="owner")
        blob = owner.node.host.store.add_file(world.shards.path(world.initial["expert"].id))
        assert owner.node.serves(blob.id)
        first = await world.add("first", slot="expert-0")
        await world.until(lambda: tip_seq(world, "expert-0") >= 1)
        job = trainer_job(first)
        assert job.initial_path is not None
        assert job.initial_path.read_bytes() == b"first weights"
        await first.die()
        heir = await world.add("heir", slot="expert-0")
        await world.until(lambda: heir.volunteer.lead is not None and heir.volunteer.lead.training.steps > 0)
        job = trainer_job(heir)
        assert job.initial_path is None
        assert job.resume_path is not None
        router = await world.add("router", slot="router")
        await world.until(
            lambda: router.volunteer.lead is not None and router.volunteer.lead.training.steps > 0
        )
        assert trainer_job(router).initial_path is None


def trainer_job(peer: Peer) -> TrainJob:
    """What the trainer of a leading peer was told."""
    assert peer.volunteer.lead is not None
    assert isinstance(peer.volunteer.lead.trainer.worker, CountingTrainer)
    return peer.volunteer.lead.trainer.worker.job
