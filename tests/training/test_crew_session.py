"""A crew's trainers merge to the same bytes, train on meanwhile, and go back to one lead's checkpoints."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paris_p2p.data.clips import ClipSet
from paris_p2p.device import Device
from paris_p2p.errors import DivergedError, InexactError, TrainError
from paris_p2p.rules.rounds import MAX_STEPS_OF_MEDIAN
from paris_p2p.training import crew_learner
from paris_p2p.training.basis_state import load_basis
from paris_p2p.training.counted_note import read_counted
from paris_p2p.training.crew_learner import CrewLearner
from paris_p2p.training.crew_messages import (
    Adopt,
    Adopted,
    Basis,
    CrewCommand,
    GoSolo,
    MakeUpdate,
    Merge,
    MergedReady,
    NothingLearned,
    NotMerged,
    UpdateReady,
    parse_crew_event,
)
from paris_p2p.training.learner import Learner
from paris_p2p.training.messages import CheckpointReady, Failed, Message, Started, Stopped
from paris_p2p.training.objective import open_clips
from paris_p2p.training.probing import probe_batch
from paris_p2p.training.round_merge import CrewSlot
from paris_p2p.updates.merged_state import write_state
from tests.made.made_crew import (
    CREW,
    Member,
    after,
    basis_of,
    card_id,
    crew_job,
    made_crew,
    peer_of,
    update_file,
)
from tests.made.tiny_run import TinyRun, checkpoint_of, start_process, train_here

SLOT = "expert-1"
CPU = Device(torch.device("cpu"), bf16=False)


@pytest.fixture(scope="module")
def first(tiny: TinyRun) -> Basis:
    """The checkpoint of one lead alone, from which crews begin."""
    return basis_of(
        checkpoint_of(train_here(tiny.train_job(out="crew-first", max_steps=6))), card_id("first")
    )


def slot_of(tiny: TinyRun) -> CrewSlot:
    return CrewSlot.of(tiny.run, SLOT, tiny.spec, CREW)


def test_members_merge_to_the_same_state_round_after_round(tiny: TinyRun, first: Basis) -> None:
    with made_crew(tiny, 3, first) as crew:
        for number in range(5):
            ready = crew.round(4, full=number == 2)
            assert len(ready.round.updates) == 3
            assert ready.left_out == ()
        # All adopted, which compares hashes; and a newcomer that reads everything finds the same.
        slot = slot_of(tiny)
        assert slot.hash_of(load_basis(slot, crew.basis)) == ready.round.merged
        assert len(crew.basis.rounds) == 2  # those since the full one
        assert ready.round.steps == first.steps + 3 * (1 + 5 * 4)  # the first step is taken unasked


def test_clips_are_those_of_the_steps_and_none_is_used_twice(tiny: TinyRun, first: Basis) -> None:
    with made_crew(tiny, 2, first) as crew:
        spans: dict[str, list[tuple[int, int]]] = {}
        for _ in range(3):
            ready = crew.round(3)
            assert ready.round.clips == 4 * ready.round.steps
            for one in ready.round.updates:
                spans.setdefault(one.signer, []).append((one.first_clip, one.first_clip + one.clips))
    for found in spans.values():
        assert found[0][0] == 0
        assert all(end == start for (_, end), (start, _) in pairwise(found))


def test_steps_that_a_member_takes_while_its_update_travels_stay_its_own(tiny: TinyRun, first: Basis) -> None:
    with made_crew(tiny, 2, first) as crew:
        for member in crew.members:
            member.train(4)
        files = [crew.update_of(member) for member in crew.members]
        crew.members[1].train(3)  # on the way
        ready = crew.merge(files)
        assert isinstance(ready, MergedReady)
        crew.adopt(ready)
        late = crew.update_of(crew.members[1])
        assert (late.steps, late.first_clip) == (3, files[1].first_clip + files[1].clips)


def test_an_update_that_came_too_late_for_its_round_counts_in_the_next(tiny: TinyRun, first: Basis) -> None:
    with made_crew(tiny, 2, first) as crew:
        lead, worker = crew.members
        files = [crew.update_of(lead), crew.update_of(worker)]
        ready = crew.merge(files[:1])
        assert isinstance(ready, MergedReady)
        crew.adopt(ready, member_1="waits")
        lead.train(2)
        late = files[1].model_copy(update={"late": 1})
        both = crew.merge([crew.update_of(lead), late])
        assert isinstance(both, MergedReady)
        assert {one.late for one in both.round.updates} == {0, 1}
        crew.adopt(both)
        worker.train(1)
        assert crew.update_of(worker).steps == 1


def test_a_worker_that_waits_sends_all_of_its_work_again(tiny: TinyRun, first: Basis) -> None:
    with made_crew(tiny, 2, first) as crew:
        lead, worker = crew.members
        ready = crew.merge([crew.update_of(lead)])
        before = crew.update_of(worker)
        assert isinstance(ready, MergedReady)
        crew.adopt(ready, member_1="waits")
        worker.train(2)
        again = crew.update_of(worker)
        assert (again.first_clip, again.steps) == (before.first_clip, before.steps + 2)


def test_without_a_step_there_is_no_update(tiny: TinyRun, first: Basis) -> None:
    with made_crew(tiny, 1, first) as crew:
        assert isinstance(crew.lead.ask(MakeUpdate(step=2.0)), UpdateReady)
        assert isinstance(crew.lead.ask(MakeUpdate(step=2.0)), NothingLearned)


def test_a_refused_worker_goes_on_from_the_base_as_it_is(tiny: TinyRun, first: Basis) -> None:
    with made_crew(tiny, 2, first) as crew:
        lead, worker = crew.members
        crew.update_of(worker)
        ready = crew.merge([crew.update_of(lead)])
        assert isinstance(ready, MergedReady)
        crew.adopt(ready, member_1="lost")
        assert isinstance(worker.ask(MakeUpdate(step=2.0)), NothingLearned)
        worker.train(1)
        assert crew.update_of(worker).steps == 1


def test_a_lead_alone_loses_nothing_and_its_card_follows_it(tiny: TinyRun, first: Basis) -> None:
    """Three rounds of its own updates, in steps of five: training goes as if there were none."""

    def trained(rounds: bool) -> Path:
        coarse = CREW.model_copy(update={"step": 5.0})
        with made_crew(tiny, 1, first, crew=coarse, alone=True) as crew:
            for _ in range(3):
                crew.lead.train(4)
                if rounds:
                    ready = crew.merge([crew.update_of(crew.lead, step=5.0)])
                    assert isinstance(ready, MergedReady)
                    crew.adopt(ready)
            crew.lead.train(1)
            answer = crew.lead.ask(GoSolo())
        assert isinstance(answer, CheckpointReady)
        assert answer.steps == first.steps + 14
        return answer.resume_path

    without, with_rounds = trained(False).read_bytes(), trained(True).read_bytes()
    assert with_rounds == without


def test_a_merge_may_be_made_anew_of_other_updates(tiny: TinyRun, first: Basis) -> None:
    with made_crew(tiny, 3, first) as crew:
        files = [crew.update_of(member) for member in crew.members]
        once = crew.merge(files)
        fewer = crew.merge(files, without=(files[2].update,))
        again = crew.merge(files)
        assert isinstance(once, MergedReady)
        assert isinstance(fewer, MergedReady)
        assert [(one.update, one.reason) for one in fewer.left_out] == [(files[2].update, "loss")]
        assert fewer.round.merged != once.round.merged
        assert again.round == once.round  # type: ignore[union-attr]
        crew.adopt(fewer, member_2="waits")


def test_a_state_that_comes_out_otherwise_ends_training_with_both_hashes(tiny: TinyRun, first: Basis) -> None:
    with made_crew(tiny, 2, first) as crew:
        ready = crew.merge([crew.update_of(member) for member in crew.members])
        assert isinstance(ready, MergedReady)
        forged = ready.round.model_copy(update={"merged": "ab" * 32})
        command = Adopt(card=card_id("x"), from_card=first.card, rounds=(forged,))
        with pytest.raises(InexactError, match=rf"{ready.round.merged[:16]}.*abababababababab"):
            crew.members[1].ask(command)


def test_what_the_node_mixes_up_is_named(tiny: TinyRun, first: Basis) -> None:
    for command in (
        Merge(parent=card_id("other"), candidates=()),
        Adopt(card=card_id("x"), from_card=card_id("other")),
    ):
        with made_crew(tiny, 1, first) as crew, pytest.raises(TrainError, match=first.card[:16]):
            crew.lead.ask(command)


def test_nothing_to_merge_is_an_answer_too(tiny: TinyRun, first: Basis) -> None:
    with made_crew(tiny, 1, first) as crew:
        assert crew.merge([]) == NotMerged(parent=first.card)


def test_going_alone_and_back_keeps_clips_and_counts(tiny: TinyRun, first: Basis) -> None:
    counted = {peer_of(0): 48, peer_of(1): 24}
    with made_crew(tiny, 2, first) as crew:
        crew.round(3)
        crew.lead.train(2)
        ready = crew.lead.ask(GoSolo(counted=counted))
    assert isinstance(ready, CheckpointReady)
    assert ready.clips == 4 * ready.steps
    assert read_counted(ready.resume_path) == counted
    alone = checkpoint_of(
        train_here(tiny.train_job(out="alone", max_steps=ready.steps + 3, **tiny.resume(ready)))
    )
    assert read_counted(alone.resume_path) == counted  # one lead's checkpoints carry it along
    own = {"resume_path": ready.resume_path, "resume_steps": ready.steps, "resume_clips": ready.clips}
    more = {
        f"own_{name}": getattr(alone, name.removeprefix("resume_")) for name in own if name != "resume_path"
    }
    with made_crew(
        tiny, 1, basis_of(ready, card_id("alone")), own_resume_path=alone.resume_path, first_clip=48, **more
    ) as crew:
        update = crew.update_of(crew.lead)  # what it learned since its card goes into the first update
        assert (update.first_clip, update.steps) == (48, 3 + 1)
        assert isinstance(crew.merge([update]), MergedReady)


def test_a_young_optimizers_moments_are_scaled_for_who_resumes(tiny: TinyRun, first: Basis) -> None:
    with made_crew(tiny, 1, first) as crew:
        crew.lead.train(4)
        ready = crew.lead.ask(GoSolo())
    learner = Learner(tiny.run, tiny.spec, SLOT, CPU)
    learner.restore(ready.resume_path, ready.steps, ready.clips)
    # Five steps of gradients clipped to 1: their mean square, not a thousandth of each.
    squares = sum(float(each.sum()) for each in learner.optimizer.exp_avg_sq.values())
    assert squares / (1 - 0.999**ready.steps) > 0.01


def test_the_rate_rises_over_a_new_members_first_steps(tiny: TinyRun, first: Basis) -> None:
    seen: list[float] = []

    class Watched(Learner):
        def step(self, batch: Any) -> float:
            seen.append(self.rate_share)
            return super().step(batch)

    clips = open_clips(tiny.train_job(SLOT), tiny.spec)
    job = crew_job(tiny, 0, first)
    crew = CrewLearner(Watched(tiny.run, tiny.spec, SLOT, CPU), slot_of(tiny), job)
    for number in range(crew_learner.WARMUP_STEPS + 2):
        crew.step(batch_of(clips, tiny, number))
    assert seen[0] == 1 / crew_learner.WARMUP_STEPS
    assert seen[-3:] == [1.0, 1.0, 1.0]
    assert all(a <= b for a, b in pairwise(seen))


def batch_of(clips: ClipSet, tiny: TinyRun, number: int) -> Any:
    return probe_batch(clips, tiny.spec, tiny.run, SLOT, str(number), 4)[0]


def test_divergence_goes_back_to_the_base_once(
    tiny: TinyRun, first: Basis, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Learner.step
    bad = iter([False, False, True, False, False, True])

    def step(self: Learner, batch: Any) -> float:
        if next(bad, False):
            raise DivergedError("diverged")
        return steps(self, batch)

    monkeypatch.setattr(Learner, "step", step)
    with made_crew(tiny, 1, first) as crew:
        crew.lead.train(4)
        update = crew.update_of(crew.lead)
        assert (update.steps, update.first_clip) == (2, 12)  # what came before the divergence is lost
        crew.lead.train(1)
        with pytest.raises(DivergedError):
            crew.lead.ask(MakeUpdate(step=2.0))


def test_a_crew_ends_at_the_last_step(tiny: TinyRun, first: Basis) -> None:
    with made_crew(tiny, 2, first, max_steps=first.steps + 6) as crew:
        for member in crew.members:
            member.train(20)  # it takes six steps, and waits
        files = [crew.update_of(member) for member in crew.members]
        assert [one.steps for one in files] == [6, 6]
        ready = crew.merge(files)
        assert isinstance(ready, MergedReady)
        crew.adopt(ready)
        for member in crew.members:
            member.train(1)
        assert [member.end() for member in crew.members] == [
            f"reached step {first.steps + 6}, the last one"
        ] * 2


def test_a_member_may_give_up_its_work_and_go_on_from_the_same_card(tiny: TinyRun, first: Basis) -> None:
    with made_crew(tiny, 2, first) as crew:
        lead, card = crew.lead, crew.basis.card
        lead.train(3)
        crew.update_of(lead)
        adopted = lead.ask(Adopt(card=card, from_card=card, own="lost"))
        assert (adopted.card, adopted.steps) == (card, first.steps)
        lead.train(2)
        assert crew.update_of(lead).steps == 2


def test_a_member_rests_where_its_update_may_count_no_more_steps(tiny: TinyRun, first: Basis) -> None:
    most = MAX_STEPS_OF_MEDIAN * 2
    with made_crew(tiny, 2, first, crew=CREW.model_copy(update={"least_steps": 1, "most_steps": 2})) as crew:
        for _ in range(2):
            for member in crew.members:
                member.train(most + 10)
            files = [crew.update_of(member) for member in crew.members]
            assert [one.steps for one in files] == [most, most]
            ready = crew.merge(files)
            assert isinstance(ready, MergedReady)
            crew.adopt(ready)


def test_training_may_begin_from_a_kept_state_or_from_all_files(tiny: TinyRun, first: Basis) -> None:
    slot = slot_of(tiny)
    with made_crew(tiny, 2, first) as crew:
        crew.round(2)
        basis = crew.basis
        state = load_basis(slot, basis)
        path = tiny.folder / "kept-state"
        assert write_state(path, tiny.run, SLOT, state) == basis.merged
        again = load_basis(slot, basis.model_copy(update={"state_path": path}))
        for name in ("weights", "momentum", "average"):
            assert np.array_equal(getattr(again, name), getattr(state, name))
        assert (again.steps, again.clips) == (state.steps, state.clips)


def test_a_late_joiner_trains_with_the_others(tiny: TinyRun, first: Basis) -> None:
    with made_crew(tiny, 2, first) as crew:
        crew.round(3, full=True)
        crew.round(3)
        newcomer = Member(crew_job(tiny, 2, crew.basis)).start()
        crew.members.append(newcomer)
        ready = crew.round(3)
        assert peer_of(2) in [one.signer for one in ready.round.updates]
        assert newcomer.end() == "asked to stop"
        crew.members.pop()


def test_a_member_that_fell_behind_reads_the_whole_basis(tiny: TinyRun, first: Basis) -> None:
    with made_crew(tiny, 2, first) as crew:
        worker = crew.members.pop()
        crew.update_of(worker)
        for _ in range(2):
            crew.round(2)
        adopted = worker.ask(Adopt(card=crew.basis.card, basis=crew.basis, own="lost"))
        assert isinstance(adopted, Adopted)
        assert (adopted.steps, adopted.clips) == (crew.basis.steps, crew.basis.clips)
        crew.members.append(worker)
        assert len(crew.round(2).round.updates) == 2


@pytest.mark.parametrize("slot", ["router"])
def test_a_router_has_crews_too(tiny: TinyRun, slot: str) -> None:
    ready = checkpoint_of(train_here(tiny.train_job(slot, out="crew-router", max_steps=6)))
    with made_crew(tiny, 2, basis_of(ready, card_id("router")), slot=slot) as crew:
        for _ in range(2):
            assert len(crew.round(3).round.updates) == 2


@contextmanager
def process_of(job: Message) -> Iterator[Any]:
    """Starts the trainer's process on a job; yields a function that sends commands and reads answers."""
    with start_process("paris_p2p.training.trainer", line=job.to_line()) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(command: CrewCommand | None = None, kinds: Any = ()) -> Any:
            if command is not None:
                process.stdin.write(command.to_line().encode())  # type: ignore[union-attr]
                process.stdin.flush()  # type: ignore[union-attr]
            while not isinstance(event := parse_crew_event(process.stdout.readline()), kinds):  # type: ignore[union-attr]
                assert not isinstance(event, Failed), event
            return event

        yield process, ask


def test_real_processes_exchange_updates_and_one_that_was_killed_comes_back(
    tiny: TinyRun, first: Basis
) -> None:
    basis = first
    with process_of(crew_job(tiny, 0, first)) as (_, lead):
        with process_of(crew_job(tiny, 1, first)) as (killed, worker):
            worker(kinds=Started)
            answers = [ask(MakeUpdate(step=2.0), UpdateReady) for ask in (lead, worker)]
            killed.send_signal(signal.SIGKILL)  # between its update and the new base
        files = [update_file(answer, peer_of(number)) for number, answer in enumerate(answers)]
        ready = lead(Merge(parent=basis.card, candidates=tuple(files)), MergedReady)
        assert len(ready.round.updates) == 2  # its update counts, though it is gone
        card = card_id("after")
        lead(Adopt(card=card, from_card=basis.card, rounds=(ready.round,)), Adopted)
        basis = after(basis, card, ready)
        goes_on = files[1].first_clip + files[1].clips
        with process_of(crew_job(tiny, 1, basis, first_clip=goes_on)) as (process, worker):
            assert worker(kinds=Started).steps == basis.steps
            files = [
                update_file(ask(MakeUpdate(step=2.0), UpdateReady), peer_of(number))
                for number, ask in enumerate((lead, worker))
            ]
            assert files[1].first_clip == goes_on
            ready = lead(Merge(parent=card, candidates=tuple(files)), MergedReady)
            for ask in (lead, worker):
                ask(Adopt(card=card_id("2"), from_card=card, rounds=(ready.round,)), Adopted)
            process.stdin.write(json.dumps({"command": "stop"}).encode() + b"\n")
            process.stdin.flush()
            assert worker(kinds=Stopped) == Stopped(reason="asked to stop")
            assert process.wait() == 0
