"""Tests that a run without training options is, to the byte, what it was before there were any."""

from __future__ import annotations

import pytest
import torch

from paris_p2p.data.batches import ClipOrder, Draws, make_batch
from paris_p2p.device import Device
from paris_p2p.spec import NetworkSpec, TrainingSpec, open_run, sign_run
from paris_p2p.training.learner import Learner
from paris_p2p.training.objective import build_network, open_clips, train_losses
from paris_p2p.training.schedule import ema_decay, learning_rate
from tests.made.tiny_run import TinyRun
from tests.test_spec import OWNER, spec

# Of the spec of tests/test_spec.py, plain and with all that readers before options knew, as signed by them.
PLAIN_RUN = "73941a2218c1277e33039353d83e3ae36cb9980d32df188ff5572a05b3c60e7e"
RICH_RUN = "3d8b139653fca18610aad13b427d455657f9aecc9a36d30459437b82158a4b56"
RICH = TrainingSpec(
    batch_clips=4, learning_rate=1e-3, total_steps=100, time_shift=2.0, ddpm_experts=(1,), compact=True
)


def test_a_runs_id_is_what_it_was() -> None:
    assert sign_run(OWNER, spec()).id == PLAIN_RUN
    assert sign_run(OWNER, spec(training=RICH)).id == RICH_RUN


@pytest.mark.parametrize(
    "options",
    [{"optimizer": "muon"}, {"contrastive": 0.05}, {"ema_clips": 16000}, {"ema_profile": "power"}],
    ids=str,
)
def test_an_option_survives_the_wire_and_keeps_older_readers_out(options: dict[str, object]) -> None:
    training = RICH.model_copy(update=options)
    opened = open_run(sign_run(OWNER, spec(training=training)).data).record
    assert opened.training == training
    assert opened.oldest_reader == 6


def test_a_network_with_the_skip_keeps_older_readers_out() -> None:
    expert = NetworkSpec(preset="nano", config={**spec().expert.config, "time_skip": True})
    assert open_run(sign_run(OWNER, spec(expert=expert)).data).record.oldest_reader == 6


def test_an_average_by_clips_reaches_back_over_as_many_whatever_the_batch(tiny: TinyRun) -> None:
    training = TrainingSpec(batch_clips=16, router_batch_clips=64, learning_rate=1e-3, ema_clips=16_000)
    assert training.ema_limit("expert-0") == 0.999
    assert training.ema_limit("router") == 0.996
    assert training.model_copy(update={"ema_clips": 8}).ema_limit("router") == 0
    assert training.model_copy(update={"ema_clips": 0}).ema_limit("router") == training.ema_decay
    spec = tiny.spec.model_copy(update={"training": training.model_copy(update={"batch_clips": 4})})
    learner = Learner(tiny.run, spec, "expert-1", Device(torch.device("cpu"), bf16=False))
    clips, draws = open_clips(tiny.train_job(), spec), Draws.of(tiny.run, "expert-1")
    learner.steps = 10**6  # no longer young
    before = {name: average.clone() for name, average in learner.ema.items()}
    learner.step(make_batch(clips, ClipOrder(draws, len(clips)), draws, 0, 4))
    for name, average in learner.ema.items():
        assert torch.equal(average, before[name].lerp(learner.weights[name].detach(), 1 - (1 - 4 / 16_000)))


@pytest.mark.parametrize("slot", ["expert-1", "router"])
def test_training_is_what_adamw_and_a_plain_average_make_of_it(tiny: TinyRun, slot: str) -> None:
    learner = Learner(tiny.run, tiny.spec, slot, Device(torch.device("cpu"), bf16=False))
    clips, draws = open_clips(tiny.train_job(slot), tiny.spec), Draws.of(tiny.run, slot)
    order, training = ClipOrder(draws, len(clips)), tiny.spec.training
    network = build_network(tiny.run, tiny.spec, slot).train()
    weights = dict(network.named_parameters())
    average = {name: weight.detach().clone() for name, weight in weights.items()}
    optimizer = torch.optim.AdamW(
        [
            {"params": [w for w in weights.values() if w.dim() >= 2], "weight_decay": training.weight_decay},
            {"params": [w for w in weights.values() if w.dim() < 2], "weight_decay": 0.0},
        ],
        lr=0.0,
        betas=(0.9, 0.999),
        eps=1e-8,
        fused=True,
    )
    for step in range(8):
        batch = make_batch(clips, order, draws, 4 * step, 4)
        learner.step(batch)
        loss = train_losses(tiny.spec, slot, network, batch).sum() / len(batch)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        for weight in weights.values():
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
        torch.nn.utils.clip_grad_norm_(weights.values(), training.clip_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(training, slot, step)
        optimizer.step()
        for name, weight in weights.items():
            average[name].lerp_(weight.detach(), 1 - ema_decay(training.ema_decay, step))
    for name, weight in weights.items():
        assert torch.equal(learner.weights[name], weight), name
        assert torch.equal(learner.ema[name], average[name]), name
