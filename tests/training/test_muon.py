"""Tests Muon: steps as torch has them, resuming equals not stopping, states with one moment for matrices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from paris_p2p.data.batches import ClipOrder, Draws, make_batch
from paris_p2p.device import pick_device
from paris_p2p.model.state_parts import StateParts
from paris_p2p.spec import ROUTER, NetworkSpec, TrainingSpec
from paris_p2p.training.crew_messages import GoSolo
from paris_p2p.training.gate import check_card
from paris_p2p.training.learner import Learner
from paris_p2p.training.messages import CheckpointReady, Command, Event, TrainJob
from paris_p2p.training.needs import checkpoint_bytes, training_bytes
from paris_p2p.training.objective import network_shapes, open_clips
from paris_p2p.training.optimizers import SlotOptimizer, evened
from paris_p2p.training.train import train
from tests.made.made_crew import basis_of, card_id, made_crew
from tests.made.tiny_run import EXPERTS, TRAINING, TinyRun, checkpoint_of, train_here, train_in_process

MUON = TRAINING.model_copy(update={"optimizer": "muon"})
SLOTS = ["expert-1", ROUTER]
CPU = replace(pick_device("cpu"), bf16=False)


@pytest.fixture(scope="module", params=["full", "compact"])
def muon(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    training = MUON.model_copy(update={"compact": request.param == "compact"})
    return TinyRun(tmp_path_factory.mktemp(f"muon-{request.param}"), training)


def checkpoints(job: TrainJob, at: tuple[int, ...]) -> list[CheckpointReady]:
    """Trains in this process with a checkpoint after each of these steps, and at the end."""
    events: list[Event] = []
    taken = 0

    def next_command() -> Command | None:
        nonlocal taken
        taken += 1
        return Command(command="checkpoint") if taken in at else None

    train(job, events.append, next_command)
    return [event for event in events if isinstance(event, CheckpointReady)]


def test_steps_are_those_of_torchs_muon_for_matrices_and_adamw_for_the_rest() -> None:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    start = {
        "blocks.0.up.weight": normal(24, 8),
        "blocks.0.up.bias": normal(24),
        "embed.weight": normal(8, 6),
    }
    start["double_blocks.1.qkv.weight"] = normal(8, 24)
    ours, other = ({name: value.clone().requires_grad_() for name, value in start.items()} for _ in range(2))
    training = TrainingSpec(batch_clips=1, learning_rate=1e-2, weight_decay=0.1, optimizer="muon")
    optimizer = SlotOptimizer(ours, training, torch.bfloat16)
    matrices = [value for name, value in other.items() if "blocks" in name and value.dim() == 2]
    muon = torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(
        [
            {"params": [other["embed.weight"]], "weight_decay": 0.1},
            {"params": [other["blocks.0.up.bias"]], "weight_decay": 0.0},
        ],
        lr=1e-2,
        fused=True,
    )
    for _ in range(5):
        for name, value in ours.items():
            value.grad = normal(*value.shape)
            other[name].grad = value.grad.clone()
        optimizer.step(1e-2)
        muon.step()
        adamw.step()
    for name, value in ours.items():
        assert torch.allclose(value, other[name], atol=2e-4), name  # bf16 products, in another order
        assert value.grad is None


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (20, 20)])
def test_a_matrix_comes_out_with_singular_values_near_one_and_its_own_directions(
    shape: tuple[int, int],
) -> None:
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    even = u.T @ evened(matrix, torch.float32) @ v.T
    values = even.diagonal()
    assert torch.all((values > 0.6) & (values < 1.3))
    assert float((even - values.diag()).abs().max()) < 1e-3


@pytest.mark.parametrize("slot", SLOTS)
def test_resuming_equals_not_stopping_bit_for_bit(muon: TinyRun, slot: str) -> None:
    straight = checkpoints(muon.train_job(slot, out=f"straight-{slot}", max_steps=12), (3, 8))
    killed: list[CheckpointReady] = []
    for steps in (3, 8, 12):
        more = muon.resume(killed[-1]) if killed else {}
        job = muon.train_job(slot, out=f"killed-{slot}", max_steps=steps, **more)
        trained = train_in_process if steps == 12 else train_here  # the last one knows nothing else
        killed.append(checkpoint_of(trained(job)))
    for one, other in zip(killed, straight, strict=True):
        assert one.resume_path.read_bytes() == other.resume_path.read_bytes()
        assert one.weights_path.read_bytes() == other.weights_path.read_bytes()


@pytest.mark.parametrize("slot", SLOTS)
def test_checkpoints_are_attested_and_have_one_moment_of_a_blocks_matrix(muon: TinyRun, slot: str) -> None:
    ready = checkpoint_of(train_here(muon.train_job(slot, out=f"gate-{slot}", max_steps=40)))
    result = check_card(muon.gate_job(ready, slot))
    assert result.ok, result.reason
    names, shapes = set(load_file(ready.resume_path)), network_shapes(muon.spec, slot)
    parts = StateParts(muon=True)
    for name, shape in shapes.items():
        is_matrix = name.startswith("blocks.") and len(shape) == 2
        assert parts.by_muon(name, shape) == is_matrix
        assert (f"exp_avg_sq.{name}" in names) == (not is_matrix)


def test_a_momentum_that_no_clipped_gradients_give_is_refused(muon: TinyRun) -> None:
    ready = checkpoint_of(train_here(muon.train_job(out="forged", max_steps=6)))
    with safe_open(ready.resume_path, framework="pt") as file:
        metadata = dict(file.metadata())
    tensors = load_file(ready.resume_path)
    name = "blocks.0.up.weight"
    if muon.spec.training.compact:
        tensors[f"exp_avg_scales.{name}"] = tensors[f"exp_avg_scales.{name}"].view(torch.float32).fill_(1e3)
        tensors[f"exp_avg_scales.{name}"] = tensors[f"exp_avg_scales.{name}"].view(torch.uint8)
    else:
        tensors[f"exp_avg.{name}"].mul_(1e6)
    forged = ready.resume_path.with_name("forged.safetensors")
    save_file(tensors, forged, metadata)
    result = check_card(muon.gate_job(ready, resume_path=forged))
    assert (result.ok, result.code) == (False, "malformed")
    assert "the momentum in" in result.reason


def test_a_state_of_adamws_is_malformed_in_a_run_of_muons(muon: TinyRun, tiny: TinyRun) -> None:
    ready = checkpoint_of(train_here(muon.train_job(out="kind", max_steps=2)))
    other = checkpoint_of(train_here(tiny.train_job(out="muon-kind", max_steps=2)))
    result = check_card(muon.gate_job(ready, resume_path=other.resume_path))
    assert (result.ok, result.code) == (False, "malformed")
    assert "they differ in" in result.reason


def test_the_micro_batch_does_not_change_the_maths(muon: TinyRun) -> None:
    clips, draws = open_clips(muon.train_job(), muon.spec), Draws.of(muon.run, "expert-1")
    order = ClipOrder(draws, len(clips))
    moments = []
    for micro in (4, 1):
        learner = Learner(muon.run, muon.spec, "expert-1", CPU)
        learner.micro_batch_clips = micro
        for first in (0, 4, 8):
            learner.step(make_batch(clips, order, draws, first, 4))
        moments.append(dict(learner.state().exp_avg))
    for name, moment in moments[0].items():
        assert torch.allclose(moment, moments[1][name], rtol=1e-3, atol=1e-6), name


@pytest.mark.parametrize("slot", SLOTS)
def test_needs_know_the_sizes_of_files_and_that_a_moment_is_saved(muon: TinyRun, slot: str) -> None:
    ready = checkpoint_of(train_here(muon.train_job(slot, out=f"size-{slot}", max_steps=1)))
    paths = ready.weights_path, ready.resume_path
    here = sum(path.stat().st_size - 8 - int.from_bytes(path.read_bytes()[:8], "little") for path in paths)
    needed = checkpoint_bytes(muon.spec, slot)
    few = 8 * len(network_shapes(muon.spec, slot)) if muon.spec.training.compact else 0
    assert needed <= here <= needed + few
    plain = muon.spec.model_copy(
        update={"training": muon.spec.training.model_copy(update={"optimizer": "adamw"})}
    )
    assert needed < checkpoint_bytes(plain, slot)
    assert training_bytes(muon.spec, slot, bf16=False) < training_bytes(plain, slot, bf16=False)


def test_a_router_that_gets_an_output_goes_on_from_its_state(muon: TinyRun, tmp_path: Path) -> None:
    ready = checkpoint_of(train_here(muon.train_job(ROUTER, out="growing", max_steps=10)))
    router = NetworkSpec(preset="nano", config={**muon.spec.router.config, "experts": EXPERTS + 1})
    grown = muon.spec.model_copy(update={"experts": EXPERTS + 1, "parents": (1,), "router": router})
    learner = Learner(muon.run, grown, ROUTER, pick_device("cpu"))
    learner.restore(ready.resume_path, ready.steps, ready.clips, experts=EXPERTS)
    _, resume = learner.write_checkpoint(tmp_path)
    before = {name: tensor.clone() for name, tensor in learner.state().tensors()}
    learner.restore(resume, ready.steps, ready.clips)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.state().tensors())


def test_a_crew_trains_with_it_and_a_lead_alone_goes_on_from_it(muon: TinyRun) -> None:
    first = checkpoint_of(train_here(muon.train_job(out="crew-first", max_steps=6)))
    with made_crew(muon, 2, basis_of(first, card_id("muon"))) as crew:
        crew.round(4)
        crew.round(3, full=True)
    with made_crew(muon, 1, basis_of(first, card_id("alone"))) as crew:
        crew.lead.train(4)
        ready = crew.lead.ask(GoSolo())
    learner = Learner(muon.run, muon.spec, "expert-1", CPU)
    learner.restore(ready.resume_path, ready.steps, ready.clips)
    assert all(bool(momentum.any()) for momentum in learner.optimizer.exp_avg.values())
