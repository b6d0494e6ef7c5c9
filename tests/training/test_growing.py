"""Tests what a split means for training: the child's start, the router's new output, what measures it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from paris_p2p.data.batches import ClipOrder, Draws, make_batch
from paris_p2p.device import pick_device
from paris_p2p.errors import CheckpointError
from paris_p2p.model.checkpoint import check_resume, check_weights, write_checkpoint
from paris_p2p.model.grown_router import grow_outputs
from paris_p2p.spec import ROUTER, NetworkSpec, RunSpec
from paris_p2p.training.gate_losses import load_reference, mean_loss
from paris_p2p.training.learner import Learner
from paris_p2p.training.messages import CheckpointReady
from paris_p2p.training.objective import build_network, network_shapes, open_clips
from tests.made.tiny_run import EXPERTS, TinyRun, checkpoint_of, train_here

PARENT, CHILD = 1, "expert-2"
CPU = replace(pick_device("cpu"), bf16=False)  # no rounding between the routers that are compared


def grown(tiny: TinyRun) -> RunSpec:
    """Returns the run's RunSpec after expert-1 was split."""
    router = NetworkSpec(preset="nano", config={**tiny.spec.router.config, "experts": EXPERTS + 1})
    return tiny.spec.model_copy(update={"experts": EXPERTS + 1, "parents": (PARENT,), "router": router})


@pytest.fixture(scope="module")
def parent(tiny: TinyRun) -> CheckpointReady:
    return checkpoint_of(train_here(tiny.train_job("expert-1", out="parent", max_steps=8)))


@pytest.fixture(scope="module")
def router(tiny: TinyRun) -> CheckpointReady:
    return checkpoint_of(train_here(tiny.train_job(ROUTER, out="old-router", max_steps=30)))


def test_a_child_starts_as_its_parent_was_attested_and_counts_from_nothing(
    tiny: TinyRun, parent: CheckpointReady
) -> None:
    learner = Learner(tiny.run, grown(tiny), CHILD, CPU)
    learner.start_as_child(parent.weights_path)
    attested = load_file(parent.weights_path)
    for name, weight in learner.weights.items():
        assert torch.equal(weight.to(torch.bfloat16), attested[name])
        assert torch.equal(learner.ema[name], weight)
    state = learner.state()
    assert (state.counters.slot, state.counters.steps, state.counters.clips) == (CHILD, 0, 0)
    assert not any(bool(moment.any()) for moment in (*state.exp_avg.values(), *state.exp_avg_sq.values()))


def test_a_child_takes_no_other_slots_weights(tiny: TinyRun, router: CheckpointReady) -> None:
    other = checkpoint_of(train_here(tiny.train_job("expert-0", out="other", max_steps=2)))
    learner = Learner(tiny.run, grown(tiny), CHILD, CPU)
    with pytest.raises(CheckpointError, match="weights of expert-0, where expert-2 starts from expert-1"):
        learner.start_as_child(other.weights_path)


def test_a_router_goes_on_with_one_output_more_and_its_checkpoints_pass_the_gates_checks(
    tiny: TinyRun, router: CheckpointReady
) -> None:
    spec = grown(tiny)
    learner = Learner(tiny.run, spec, ROUTER, CPU)
    learner.restore(router.resume_path, router.steps, router.clips, experts=EXPERTS)
    before = load_file(router.resume_path)
    trained = {name.removeprefix("weights."): t for name, t in before.items() if name.startswith("weights.")}
    expected = grow_outputs(trained, [PARENT])
    assert all(torch.equal(learner.weights[name], expected[name]) for name in expected)
    clips, draws = open_clips(tiny.train_job(ROUTER), tiny.spec), Draws.of(tiny.run, ROUTER)
    for _ in range(3):
        learner.step(make_batch(clips, ClipOrder(draws, len(clips)), draws, learner.clips, 4))
    (tiny.folder / "grown").mkdir()
    weights, resume = write_checkpoint(tiny.folder / "grown", learner.state())
    shapes, counters = network_shapes(spec, ROUTER), learner.state().counters
    assert counters.steps == router.steps + 3
    check_weights(weights, shapes, counters)
    check_resume(resume, shapes, counters, spec.training.clip_grad_norm, weights)


def test_a_resume_state_of_fewer_outputs_is_refused_where_the_job_does_not_say_so(
    tiny: TinyRun, router: CheckpointReady
) -> None:
    learner = Learner(tiny.run, grown(tiny), ROUTER, CPU)
    with pytest.raises(CheckpointError, match="the network needs"):
        learner.restore(router.resume_path, router.steps, router.clips)


def test_a_grown_reference_measures_as_the_old_router_but_for_the_split_clusters_ln_2(
    tiny: TinyRun, router: CheckpointReady
) -> None:
    spec = grown(tiny)
    old, new = (build_network(tiny.run, one, ROUTER).eval() for one in (tiny.spec, spec))
    load_reference(router.weights_path, dict(old.named_parameters()), ())
    load_reference(router.weights_path, dict(new.named_parameters()), spec.parents)
    clips, draws = open_clips(tiny.gate_job(router, ROUTER), tiny.spec), Draws.of(tiny.run, "measure")
    batch, t = make_batch(clips, ClipOrder(draws, len(clips)), draws, 0, 12), torch.linspace(0.05, 0.95, 12)
    for cluster, more in ((0, 0.0), (PARENT, math.log(2))):
        rows = batch.cluster == cluster
        part = batch.where(rows)
        losses = [
            mean_loss(network, one, ROUTER, part, t[rows], CPU)
            for network, one in ((old, tiny.spec), (new, spec))
        ]
        assert losses[1] == pytest.approx(losses[0] + more, rel=1e-5)
