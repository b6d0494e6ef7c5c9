"""Trains, checks and goes on in a run that is split and loses an expert, with real networks and jobs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from paris_p2p.device import pick_device
from paris_p2p.model.checkpoint import BETAS
from paris_p2p.owner_records import AddClips, AddedShard, AddExpert, AnyChange, DropExpert
from paris_p2p.records import BlobRef
from paris_p2p.rules.growth import grown
from paris_p2p.rules.run_state import RunState, run_state
from paris_p2p.rules.shard_spans import shard_times
from paris_p2p.run_file import read_run, write_effective
from paris_p2p.spec import ROUTER, RunSpec, ShardRef
from paris_p2p.store.blob_files import hash_file
from paris_p2p.training.gate import check_card
from paris_p2p.training.gate_losses import gate_batch, mean_loss, zero_loss
from paris_p2p.training.messages import CheckpointReady, GateJob, ShardSpan, TrainJob
from paris_p2p.training.objective import build_network, router_losses
from tests.data.shards import write_shard
from tests.made.tiny_run import TinyRun, checkpoint_of, train_here
from tests.rules.made import NOW
from tests.rules.made_notices import chain_of

PARENT, CHILD = "expert-1", "expert-2"
SPLIT = 2  # the number of the notice with which the split takes effect


class SplitRun:
    """A tiny run: notices 1 and 2 split expert-1, notices 3 and 4 drop expert-0."""

    def __init__(self, folder: Path):
        self.tiny = TinyRun(folder)
        self.signed: RunSpec = read_run(self.tiny.spec_path, mend="").record
        self.files: dict[str, Path] = {}
        split, drop = self._part("split", 1, 2), self._part("drop", 1, 2)
        self.changes: list[AnyChange] = [
            AddExpert(parent=1, child=2, parts=1),
            split,
            DropExpert(expert=0, parts=1),
            drop,
        ]

    def _part(self, name: str, *clusters: int) -> AddClips:
        shards = []
        for seed, split, clips in ((0, "train", 6), (500, "gate", 4)):
            for k in clusters:
                path = write_shard(self.tiny.folder / name / f"{split}-{k}.tar", k, clips, seed + 20 * k)
                ref = BlobRef(id=hash_file(path).blob_id, size_bytes=path.stat().st_size)
                self.files[ref.id] = path
                shards.append(AddedShard.model_validate(
                    {"split": split, "cluster": k, "blob": ref, "clips": clips}
                ))  # fmt: skip
        return AddClips(shards=tuple(shards))

    def state(self, notices: int) -> RunState:
        return run_state(
            self.tiny.run, self.signed, chain_of(self.tiny.run, self.changes[:notices]), NOW + 999
        )

    def job(self, slot: str, notices: int, *, out: str, **changes: Any) -> TrainJob:
        how = {"max_steps": 8, "compile": False} | changes
        return self.tiny.train_job("expert-0", out=out).model_copy(
            update=self._fields(slot, notices, "train") | how
        )

    def gate_job(
        self,
        ready: CheckpointReady,
        slot: str,
        notices: int,
        best: CheckpointReady | None = None,
        **more: Any,
    ) -> GateJob:
        named = {"best_weights_path": best.weights_path if best else None}
        fields = self._fields(slot, notices, "gate") | named | more
        return self.tiny.gate_job(ready, "expert-0").model_copy(update=fields)

    def _fields(self, slot: str, notices: int, split: str) -> dict[str, Any]:
        state = self.state(notices)
        spec, effective = state.spec, self.tiny.folder / f"effective-{notices}.json"
        write_effective(effective, spec)
        refs = spec.shards_for(slot, "train" if split == "train" else "gate")
        spans = tuple(
            ShardSpan(clips=one.shard.clips, since=one.since, until=one.until)
            for one in shard_times(state, slot)
        )
        return {
            "slot": slot,
            "notices": notices,
            "effective_path": effective if notices else None,
            "shard_paths": tuple(self._file(ref, split) for ref in refs),
            "shard_clusters": tuple(ref.cluster for ref in refs),
            "spans": spans,
        }

    def _file(self, ref: ShardRef, split: str) -> Path:
        return self.files.get(ref.blob.id) or self.tiny.shards[split][ref.cluster]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SplitRun:
    torch.set_num_threads(1)
    return SplitRun(tmp_path_factory.mktemp("split"))


@pytest.fixture(scope="module")
def parent(run: SplitRun) -> CheckpointReady:
    return checkpoint_of(train_here(run.job(PARENT, 0, out="parent", max_steps=80)))


@pytest.fixture(scope="module")
def router(run: SplitRun) -> CheckpointReady:
    return checkpoint_of(train_here(run.job(ROUTER, 0, out="router", max_steps=60)))


def grown_router(run: SplitRun, before: CheckpointReady, out: str, **changes: Any) -> CheckpointReady:
    how = run.tiny.resume(before) | changes
    return checkpoint_of(train_here(run.job(ROUTER, SPLIT, out=out, **how)))


def test_a_childs_first_checkpoint_is_attested_and_better_than_a_beginners(
    run: SplitRun, parent: CheckpointReady
) -> None:
    starts = {"child": parent.weights_path, "beginner": None}
    losses = {}
    for name, path in starts.items():
        ready = checkpoint_of(train_here(run.job(CHILD, SPLIT, out=name, parent_path=path)))
        assert (ready.steps, ready.clips) == (8, 32)
        verdict = check_card(run.gate_job(ready, CHILD, SPLIT))
        assert verdict.ok, verdict.reason
        losses[name] = verdict.loss
    assert losses["child"] < losses["beginner"]


def test_a_router_learns_the_child_and_is_measured_against_what_it_was(
    run: SplitRun, router: CheckpointReady
) -> None:
    ready = grown_router(run, router, "learns", max_steps=100, resume_experts=2)
    assert load_file(ready.weights_path)["out.bias"].shape == (3,)
    verdict = check_card(run.gate_job(ready, ROUTER, SPLIT, router, best_experts=2))
    assert verdict.ok, verdict.reason
    assert verdict.loss < verdict.reference_loss
    later = grown_router(run, ready, "later", max_steps=110)
    again = check_card(run.gate_job(later, ROUTER, SPLIT, ready))
    assert again.reference_loss == pytest.approx(verdict.loss, rel=1e-6)


def test_a_card_of_another_number_of_outputs_than_its_notice_gives_is_malformed(
    run: SplitRun, router: CheckpointReady
) -> None:
    ready = grown_router(run, router, "shape", max_steps=62, resume_experts=2)
    verdict = check_card(run.gate_job(ready, ROUTER, 0))
    assert (verdict.ok, verdict.code) == (False, "malformed")
    verdict = check_card(run.gate_job(router, ROUTER, SPLIT))
    assert (verdict.ok, verdict.code) == (False, "malformed")


@pytest.mark.parametrize("slot", [ROUTER, PARENT])
def test_resuming_equals_not_stopping_across_a_split(
    run: SplitRun, router: CheckpointReady, parent: CheckpointReady, slot: str
) -> None:
    start, experts = (router, 2) if slot == ROUTER else (parent, 0)
    through = {**run.tiny.resume(start), "resume_experts": experts}
    steps = start.steps

    def until(step: int, name: str) -> CheckpointReady:
        job = run.job(slot, SPLIT, out=f"{name}-{slot}", max_steps=step, **through)
        return checkpoint_of(train_here(job))

    whole, half = until(steps + 8, "whole"), until(steps + 3, "half")
    rest = run.job(slot, SPLIT, out=f"rest-{slot}", max_steps=steps + 8, **run.tiny.resume(half))
    ended = checkpoint_of(train_here(rest))
    assert ended.resume_path.read_bytes() == whole.resume_path.read_bytes()


def test_a_router_is_trained_and_measured_without_an_expert_whose_clips_have_gone(
    run: SplitRun, router: CheckpointReady
) -> None:
    known = grown_router(run, router, "known", max_steps=70, resume_experts=2)
    job = run.job(ROUTER, 4, out="dropped", max_steps=90, **run.tiny.resume(known))
    ready = checkpoint_of(train_here(job))
    before, after = (load_file(each.resume_path) for each in (known, ready))
    # no gradient came to the dropped output: its moment decayed for twenty steps
    moment = "exp_avg.out.weight"
    torch.testing.assert_close(after[moment][0], before[moment][0] * BETAS[0] ** 20)
    gate = run.gate_job(ready, ROUTER, 4, known)
    verdict = check_card(gate)
    assert verdict.ok, verdict.reason
    spec = run.state(4).spec
    batch, t = gate_batch(gate, spec)
    assert zero_loss(spec, ROUTER, batch) == pytest.approx(math.log(2))
    fresh = build_network(run.tiny.run, spec, ROUTER).eval()
    assert mean_loss(fresh, spec, ROUTER, batch, t, pick_device("cpu")) == pytest.approx(
        math.log(2), rel=1e-3
    )


def test_a_silent_output_gets_no_gradient_and_no_share(run: SplitRun) -> None:
    spec = grown(run.signed, run.changes)
    network = build_network(run.tiny.run, spec, ROUTER)
    torch.nn.init.normal_(network.get_parameter("out.weight"))
    job = run.gate_job(CheckpointReady(
        weights_path=Path("w"), resume_path=Path("r"), steps=1, clips=4, train_loss=1.0
    ), ROUTER, 4)  # fmt: skip
    batch, t = gate_batch(job, spec)
    losses = router_losses(network, batch, t, silent=(0,))
    assert losses.isfinite().all()
    losses.mean().backward()
    gradient = network.get_parameter("out.weight").grad
    assert gradient is not None
    assert not gradient[0].any()
    assert gradient[1:].any()
