"""Crews of runs with parts, few entries, compact checkpoints, changed clips, or the gate's clips at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from paris_p2p.crew_records import CrewSpec
from paris_p2p.errors import DataError, TrainError
from paris_p2p.model.checkpoint import resume_note
from paris_p2p.training.basis_state import load_basis
from paris_p2p.training.crew_messages import GoSolo, MakeUpdate, MergedReady, UpdateReady
from paris_p2p.training.messages import CheckpointReady
from paris_p2p.training.round_merge import CrewSlot
from paris_p2p.training.segments import NOTE
from tests.made.made_crew import (
    CREW,
    MadeCrew,
    Member,
    basis_of,
    card_id,
    crew_job,
    crew_job_of,
    made_crew,
    update_file,
)
from tests.made.tiny_run import TRAINING, TinyRun, checkpoint_of, train_here
from tests.training.test_segments import GrownRun

SLOT = "expert-1"


@pytest.mark.parametrize(
    "changes",
    [{"parts": 4}, {"step": 5.0, "outer_rate": 0.5}, {"step": 0.5, "parts": 2}],
    ids=["parts", "coarse steps", "fine steps in parts"],
)
def test_every_kind_of_update_is_merged_alike(tiny: TinyRun, changes: dict[str, float]) -> None:
    crew_spec = CREW.model_copy(update=changes)
    first = basis_of(checkpoint_of(train_here(tiny.train_job(SLOT, out="kinds", max_steps=6))), card_id("1"))
    with made_crew(tiny, 3, first, crew=crew_spec) as crew:
        for number in range(6):
            ready = round_of(crew, crew_spec, number % crew_spec.parts)
            crew.adopt(ready)
        slot = CrewSlot.of(tiny.run, SLOT, tiny.spec, crew_spec)
        assert slot.hash_of(load_basis(slot, crew.basis)) == ready.round.merged


def round_of(crew: MadeCrew, crew_spec: CrewSpec, part: int) -> MergedReady:
    files = []
    for member in crew.members:
        member.train(3)
        ready = member.ask(MakeUpdate(step=crew_spec.step, part=part))
        assert isinstance(ready, UpdateReady)
        files.append(update_file(ready, member.job.peer))
    merged = crew.merge(files)
    assert isinstance(merged, MergedReady)
    assert merged.left_out == ()
    return merged


def test_a_part_that_the_run_has_not_is_named(tiny: TinyRun) -> None:
    first = basis_of(checkpoint_of(train_here(tiny.train_job(SLOT, out="part", max_steps=2))), card_id("1"))
    with made_crew(tiny, 1, first) as crew, pytest.raises(TrainError, match="part 3"):
        crew.lead.ask(MakeUpdate(step=2.0, part=3))


def test_a_run_with_compact_checkpoints_has_crews(tmp_path: Path) -> None:
    tiny = TinyRun(tmp_path, training=TRAINING.model_copy(update={"compact": True}))
    first = basis_of(checkpoint_of(train_here(tiny.train_job(SLOT, out="first", max_steps=6))), card_id("1"))
    with made_crew(tiny, 2, first) as crew:
        crew.round(3, full=True)
        crew.round(3)
        crew.lead.train(1)
        ready = crew.lead.ask(GoSolo())
    assert isinstance(ready, CheckpointReady)
    train_here(tiny.train_job(SLOT, out="goes-on", max_steps=ready.steps + 1, **tiny.resume(ready)))


def test_others_updates_are_tried_on_the_gates_clips_where_a_lead_may_read_them(tiny: TinyRun) -> None:
    first = basis_of(checkpoint_of(train_here(tiny.train_job(SLOT, out="gate", max_steps=6))), card_id("1"))
    shards = {"gate_shard_paths": (tiny.shards["gate"][1],), "gate_shard_clusters": (1,)}
    with made_crew(tiny, 2, first, **shards) as crew:
        assert len(crew.round(3, compare=True).round.updates) == 2
    wrong = Member(crew_job(tiny, 0, first, **(shards | {"gate_shard_paths": (tiny.shards["gate"][0],) * 1})))
    wrong.job = wrong.job.model_copy(update={"gate_shard_clusters": (0,)})
    with pytest.raises(DataError, match="clusters"):
        wrong.start().ask(MakeUpdate(step=2.0))


def test_a_crew_whose_clips_notices_changed_leaves_a_checkpoint_that_one_goes_on_from(tmp_path: Path) -> None:
    grown = GrownRun(tmp_path)
    first = basis_of(grown.trained(SLOT, 0, 6, out="first"), card_id("1"))
    job = crew_job_of(grown.job(SLOT, 5, out="crew", max_steps=0), 0, first)
    member = Member(job).start()
    member.train(2)
    ready = member.ask(GoSolo())
    assert isinstance(ready, CheckpointReady)
    assert resume_note(ready.resume_path, NOTE) == "0:5:22"
    after = grown.trained(SLOT, 5, ready.steps + 2, out="after", **grown.tiny.resume(ready))
    assert after.steps == ready.steps + 2
