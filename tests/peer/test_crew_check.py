"""What an attestor fetches and refuses of a crew's card before its gate, and what it asks its gate for."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paris_p2p.crew_records import UpdateRecord
from paris_p2p.envelope import Envelope
from paris_p2p.errors import TrainError
from paris_p2p.node.publish import sign_checkpoint, sign_going_back, tell_card
from paris_p2p.node.run_node import RunNode, opened
from paris_p2p.peer.check import Checker
from paris_p2p.records import CardRecord
from paris_p2p.round_file import encode_round
from paris_p2p.rules.next_card import NewCheckpoint, NewRound
from paris_p2p.rules.refusals import REASONS
from paris_p2p.rules.round_checks import OpenedRound, StateBefore, state_before
from paris_p2p.spec import TrainingSpec
from paris_p2p.training.crew_messages import CrewGateJob
from paris_p2p.training.messages import GateJob, GateResult
from tests.node.crew_world import CREW, SLOT, attested, crew_update, host_in, written
from tests.peer.world import World
from tests.rules.made_rounds import opened_round

ROUND_S = 1.0
TRAINING = TrainingSpec(batch_clips=8, learning_rate=1e-3)  # as `crew_update` has them


class Slot:
    """A lead, two workers and an attestor, all nodes without trainers, and the gate that is asked."""

    def __init__(self, world: World, nodes: Sequence[RunNode]):
        self.world = world
        self.lead, self.one, self.other, self.attestor = nodes
        self.jobs: list[GateJob] = []
        self.error: TrainError | None = None
        self.says = GateResult(ok=True, loss=0.5, reference_loss=1.0, gate_clips=4)
        self.checker = Checker(self.attestor, "cpu", self._gate)

    async def _gate(self, job: GateJob) -> GateResult:
        self.jobs.append(job)
        if self.error is not None:
            raise self.error
        if isinstance(job, CrewGateJob):
            job.state_out.write_text(job.merged)
        return self.says

    @property
    def job(self) -> CrewGateJob:
        assert isinstance(self.jobs[-1], CrewGateJob)
        return self.jobs[-1]

    async def solo(self, counted: str = "") -> Envelope[CardRecord]:
        """The next checkpoint of the lead alone; it is the tip."""
        weights, resume = written(self.lead, "weights"), written(self.lead, "resume")
        header = json.dumps({"__metadata__": {"counted": counted, "name": resume.name}}).encode()
        resume.write_bytes(len(header).to_bytes(8, "little") + header)
        tip = self.lead.board.tip(SLOT)
        steps = tip.card.record.steps + 2 if tip else 2
        new = NewCheckpoint(weights, resume, 8 * steps, steps, 1.0)
        return await self.told(await sign_checkpoint(self.lead, SLOT, 1, new))

    async def told(self, card: Envelope[CardRecord]) -> Envelope[CardRecord]:
        await tell_card(self.lead, card)
        return card

    async def tip(self, card: Envelope[CardRecord]) -> Envelope[CardRecord]:
        """The card is the tip everywhere."""
        for node in (self.lead, self.one, self.other, self.attestor):
            node.keep(card)
        await attested(self.attestor, card)
        for node in (self.lead, self.one, self.other):
            await node.refresh([SLOT])
            assert node.board.tip(SLOT) is not None
        return card

    def before(self, last: OpenedRound | None = None) -> StateBefore:
        tip = self.lead.board.tip(SLOT)
        assert tip is not None
        return state_before(tip.card, last)

    async def updates(self, first_clip: int = 0) -> list[Envelope[UpdateRecord]]:
        tip = self.lead.board.tip(SLOT)
        assert tip is not None
        return [await crew_update(node, tip.card.id, first_clip) for node in (self.lead, self.one)]

    def round(
        self, before: StateBefore, updates: Sequence[Envelope[UpdateRecord]], **changes: Any
    ) -> OpenedRound:
        return opened_round(before, updates, **({"run": self.world.run.id} | changes))

    async def card(
        self, one: OpenedRound, data: bytes | None = None, *, full: bool = False
    ) -> Envelope[CardRecord]:
        """The lead's card of a round, whose blob has these bytes."""
        tip, made, path = self.lead.board.tip(SLOT), one.made, written(self.lead, "round")
        assert tip is not None
        before = tip.card.record
        path.write_bytes(encode_round(made) if data is None else data)
        names = NewRound(tip.card.id, path, before.rounds if before.is_light else (), made.merged, ROUND_S)
        if not full:
            names = replace(names, full=before.full or tip.card.id, blobs=(before.weights, before.resume))
        files = (written(self.lead, "weights"), written(self.lead, "resume")) if full else (None, None)
        new = NewCheckpoint(*files, made.clips, made.steps, 1.0, round=names)
        return await self.told(await sign_checkpoint(self.lead, SLOT, before.epoch, new))

    async def verdict(self, card: Envelope[CardRecord]) -> GateResult:
        self.attestor.keep(card)
        return await self.checker.measure(card, self.attestor.board.tip(SLOT))


@pytest.fixture
async def slot(tmp_path: Path) -> AsyncIterator[Slot]:
    async with World(tmp_path, crew=CREW, training=TRAINING) as world, AsyncExitStack() as stack:
        nodes = []
        for name in ("lead", "one", "other", "attestor"):
            host = host_in(world, name)
            for shard in world.run.record.gate_shards:
                host.store.add_file(world.shards.path(shard.blob.id))
            nodes.append(await stack.enter_async_context(opened(host, world.run)))
        made = Slot(world, nodes)
        await made.tip(await made.solo())
        yield made


async def test_the_gate_gets_the_full_cards_files_and_the_rounds_and_then_the_kept_state(slot: Slot) -> None:
    first = slot.round(slot.before(), await slot.updates())
    card = await slot.card(first)
    assert (await slot.verdict(card)).ok
    job = slot.job
    assert (job.basis.state_path, job.basis.rounds, job.light, job.disputed) == (None, (), True, ())
    assert [one.signer for one in job.rounds[0].updates] == [one.signer for one in first.updates]
    assert all(one.path.is_file() for one in job.rounds[0].updates)
    assert job.best_weights_path is not None
    await slot.tip(card)
    second = slot.round(slot.before(first), await slot.updates(8))
    card = await slot.card(second)
    assert (await slot.verdict(card)).ok
    kept = slot.job.basis.state_path
    assert kept is not None
    assert kept.read_text() == first.made.merged
    assert slot.job.basis.merged == first.made.merged
    assert kept.stat().st_mode & 0o77 == 0 or kept.parent.stat().st_mode & 0o77 == 0


async def test_an_attestor_without_the_state_takes_the_full_card_and_all_rounds(slot: Slot) -> None:
    first = slot.round(slot.before(), await slot.updates())
    await slot.tip(await slot.card(first))
    second = slot.round(slot.before(first), await slot.updates(8))
    assert (await slot.verdict(await slot.card(second))).ok
    job = slot.job
    assert job.basis.state_path is None
    assert [one.merged for one in job.basis.rounds] == [first.made.merged]
    assert (job.basis.start_steps, job.basis.merged, job.basis.merged_start) == (2, first.made.merged, "")


async def test_a_full_cards_own_files_are_given_to_the_gate(slot: Slot) -> None:
    card = await slot.card(slot.round(slot.before(), await slot.updates(), full=True), full=True)
    assert (await slot.verdict(card)).ok
    job = slot.job
    assert not job.light
    assert "weights" in job.weights_path.read_text()
    assert job.weights_path != job.basis.weights_path


async def test_states_that_the_tip_left_behind_go_and_give_their_room_back(slot: Slot) -> None:
    states, store = slot.checker.states, slot.attestor.host.store
    merged, last = [], None
    for number in range(4):
        last = slot.round(slot.before(last), await slot.updates(8 * number))
        card = await slot.card(last)
        assert (await slot.verdict(card)).ok
        merged.append(last.made.merged)
        assert len(states) <= 2
        await slot.tip(card)
    assert [states.find(one) is not None for one in merged] == [False, False, True, True]
    used = store.used_bytes()
    states.keep_only(SLOT, ())
    assert len(states) == 0
    assert store.used_bytes() < used


async def test_a_state_that_the_gate_comes_to_no_end_with_is_not_used_again(slot: Slot) -> None:
    first = slot.round(slot.before(), await slot.updates())
    card = await slot.card(first)
    assert (await slot.verdict(card)).ok
    await slot.tip(card)
    second = await slot.card(slot.round(slot.before(first), await slot.updates(8)))
    slot.error = TrainError("the state is damaged")
    with pytest.raises(TrainError):
        await slot.verdict(second)
    slot.error = None
    assert (await slot.verdict(second)).ok
    assert slot.job.basis.state_path is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 99}, "goes to 99"),
        ({"merged_before": "0a" * 32}, "begins with state"),
        ({"lineage": ("0a" * 32,)}, "another state"),
        ({"counted": ()}, "counts other clips"),
        ({"full": True}, "rounded"),
    ],
    ids=["steps", "state", "lineage", "counted", "full"],
)
async def test_a_round_against_the_rules_is_refused_before_an_update_is_fetched(
    slot: Slot, changes: dict[str, Any], words: str
) -> None:
    updates = [await crew_update(slot.one, slot.before().card)]
    card = await slot.card(slot.round(slot.before(), updates, **changes))
    result = await slot.verdict(card)
    assert (result.ok, result.code, words in result.reason) == (False, "round", True), result
    assert not slot.attestor.host.store.has(updates[0].record.blob.id)
    assert slot.jobs == []


async def test_an_update_that_nobody_signed_or_of_another_slot_is_refused(slot: Slot) -> None:
    honest = slot.round(slot.before(), await slot.updates())
    entries = honest.made.updates
    forged = entries[0].model_copy(update={"envelope": entries[0].envelope[:-1] + b"\0"})
    for made in (
        honest.made.model_copy(update={"updates": (forged, *entries[1:])}),
        honest.made.model_copy(update={"slot": "router"}),
        honest.made.model_copy(update={"run": "0b" * 32}),
    ):
        result = await slot.verdict(await slot.card(OpenedRound(made, honest.updates)))
        assert (result.ok, result.code) == (False, "round"), result


@pytest.mark.parametrize(
    "data", [b"", b"\xff" * 1000, b"\x80", encode_round], ids=["none", "junk", "map", "more"]
)
async def test_a_blob_that_is_no_round_is_refused(slot: Slot, data: Any) -> None:
    one = slot.round(slot.before(), await slot.updates())
    card = await slot.card(one, data if isinstance(data, bytes) else encode_round(one.made) + b"\0")
    result = await slot.verdict(card)
    assert (result.ok, result.code) == (False, "round"), result


async def test_an_update_larger_than_the_network_allows_is_refused_unfetched(slot: Slot) -> None:
    tip = slot.before().card
    large = await crew_update(slot.one, tip)
    large = slot.one.sign(
        large.record.model_copy(
            update={"blob": large.record.blob.model_copy(update={"size_bytes": 10**9}), "seq": 10**6}
        )
    )
    result = await slot.verdict(await slot.card(slot.round(slot.before(), [large])))
    assert (result.ok, result.code) == (False, "size"), result


async def test_after_one_leads_checkpoint_its_resume_state_says_what_was_counted(slot: Slot) -> None:
    peer = slot.one.peer_id
    await slot.tip(await slot.solo(f"{peer}:16"))
    tip = slot.before().card
    counted = replace(slot.before(), counted={peer: 16})
    again = slot.round(slot.before(), [await crew_update(slot.one, tip, 8)])
    result = await slot.verdict(await slot.card(again))
    assert (result.ok, result.code, "merged already" in result.reason) == (False, "round", True), result
    honest = slot.round(counted, [await crew_update(slot.other, tip), await crew_update(slot.one, tip, 16)])
    assert (await slot.verdict(await slot.card(honest))).ok
    forgets = slot.round(slot.before(), [await crew_update(slot.other, tip)])
    result = await slot.verdict(await slot.card(forgets))
    assert "counts other clips" in result.reason


async def test_a_lead_that_trains_alone_again_keeps_what_was_counted(slot: Slot) -> None:
    last = slot.round(slot.before(), await slot.updates())
    await slot.tip(await slot.card(last))
    note = ",".join(f"{one.peer}:{one.next}" for one in last.made.counted)
    assert (await slot.verdict(await slot.solo(note))).ok
    result = await slot.verdict(await slot.solo())
    assert (result.ok, result.code) == (False, "round"), result
    own = ",".join(part for part in note.split(",") if not part.startswith(slot.lead.peer_id))
    assert (await slot.verdict(await slot.solo(own))).ok  # it went on from the card before its last round
    kept = await slot.solo(note)
    assert (await slot.verdict(kept)).ok
    await slot.tip(kept)
    assert (await slot.verdict(await slot.solo(note))).ok
    assert not (await slot.verdict(await slot.solo())).ok  # also after the next checkpoint


async def test_a_card_that_goes_back_to_a_light_one_is_computed_again(slot: Slot) -> None:
    first = slot.round(slot.before(), await slot.updates())
    best = await slot.tip(await slot.card(first))
    await slot.tip(await slot.card(slot.round(slot.before(first), await slot.updates(8))))
    tip = slot.lead.board.tip(SLOT)
    assert tip is not None
    back = await slot.told(sign_going_back(slot.lead, best.record, 1))
    result = await slot.verdict(back)
    assert result.ok, result.reason
    assert (slot.job.rounds, slot.job.merged) == ((), first.made.merged)
    assert [one.merged for one in slot.job.basis.rounds] == [first.made.merged]


async def test_an_update_that_was_held_for_long_is_asked_for_at_the_gate(slot: Slot) -> None:
    tip = slot.before().card
    left_out = await crew_update(slot.other, tip)
    slot.attestor.keep(left_out)
    await slot.attestor.fetch_update(left_out)
    path = slot.attestor.host.store.path(left_out.record.blob.id)
    merged = await slot.updates()
    assert (await slot.verdict(await slot.card(slot.round(slot.before(), merged)))).ok
    assert slot.job.disputed == ()  # it came just now
    long_ago = time.time() - 1e4
    os.utime(path, (long_ago, long_ago))
    slot.attestor.board.slots[SLOT].crew.heard_s[left_out.id] = long_ago
    refused = [(left_out.id, left_out.signer, "loss")]
    for reason, more in (("", {}), ("loss", {"refused": refused})):
        one = opened_round(slot.before(), merged, run=slot.world.run.id, **more)
        assert (await slot.verdict(await slot.card(one))).ok
        ((file, said),) = slot.job.disputed
        assert (file.update, file.signer, said) == (left_out.id, left_out.signer, reason)
    assert {"dropped", "round", "merge"} <= set(REASONS)


async def test_a_lead_may_leave_out_for_its_loss_what_a_card_that_measured_worse_here_had_merged(
    slot: Slot,
) -> None:
    """Each of the updates may be good and their sum too much: then the lead tries without each in turn."""
    left_out = await crew_update(slot.other, slot.before().card)
    slot.attestor.keep(left_out)
    await slot.attestor.fetch_update(left_out)
    long_ago = time.time() - 1e4
    os.utime(slot.attestor.host.store.path(left_out.record.blob.id), (long_ago, long_ago))
    slot.attestor.board.slots[SLOT].crew.heard_s[left_out.id] = long_ago
    merged = await slot.updates()
    slot.says = GateResult(ok=False, code="loss", reason="worse", loss=2.0, reference_loss=1.0)
    assert not (await slot.verdict(await slot.card(slot.round(slot.before(), [*merged, left_out])))).ok
    slot.says = GateResult(ok=True, loss=0.5, reference_loss=1.0, gate_clips=4)
    for reason, disputed in (("loss", 0), ("norm", 1)):  # that it is too long is as untrue as before
        refused = [(left_out.id, left_out.signer, reason)]
        one = opened_round(slot.before(), merged, run=slot.world.run.id, refused=refused)
        assert (await slot.verdict(await slot.card(one))).ok
        assert len(slot.job.disputed) == disputed


async def test_a_slots_first_card_counts_nobody(slot: Slot) -> None:
    """Else its lead could fill all places with peers that there are not, or say that it merged a rival's
    whole stream.
    """
    lie = await slot.solo(f"{slot.one.peer_id}:{2**52}")
    slot.attestor.keep(lie)
    result = await slot.checker.measure(lie, None)
    assert (result.ok, result.code) == (False, "round"), result
    honest = await slot.solo()
    slot.attestor.keep(honest)
    assert (await slot.checker.measure(honest, None)).ok
