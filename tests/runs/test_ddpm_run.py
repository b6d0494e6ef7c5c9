"""Tests a run with an expert that predicts noise beside one that predicts the velocity.

It is trained, gated, mixed, generated from and exported.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn

from paris_p2p.device import pick_device
from paris_p2p.errors import UsageError
from paris_p2p.flow.condition import Condition
from paris_p2p.flow.ddpm import cosine, cosine_time, diffuse
from paris_p2p.flow.mixture import mixed_velocity
from paris_p2p.generation import routed
from paris_p2p.generation.export import export
from paris_p2p.generation.generate import generate
from paris_p2p.generation.pipeline import ParisPipeline
from paris_p2p.generation.routed import DEFAULT_CLAMP, ExpertSeats
from paris_p2p.model.experts import ExpertSet
from paris_p2p.preparation.create import CreateOptions, create_run
from paris_p2p.spec import GateSpec, TimingSpec, TrainingSpec
from paris_p2p.training.gate import check_card
from paris_p2p.training.gate_losses import gate_batch, zero_loss
from paris_p2p.training.messages import CheckpointReady
from paris_p2p.training.objective import expert_losses, times
from tests.made.made_prepared import prepare_made
from tests.made.made_run import PROMPTS, MadeRun
from tests.made.tiny_run import TRAINING, TinyRun, checkpoint_of, train_here

NOISE, FLOW = "expert-0", "expert-1"
MEAN, SPREAD = 1.5, 0.7  # of the data in every place


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return TinyRun(
        tmp_path_factory.mktemp("ddpm"), training=TRAINING.model_copy(update={"ddpm_experts": (0,)})
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    return MadeRun(tmp_path_factory.mktemp("made"), ddpm_experts=(0, 2))


def trained(run: TinyRun, slot: str, out: str, steps: int, **changes: object) -> CheckpointReady:
    return checkpoint_of(train_here(run.train_job(slot, out=out, max_steps=steps, **changes)))


class NoiseOracle(nn.Module):
    """Returns E[eps | x_s] for Gaussian data; knows the cosine schedule and nothing of t."""

    def forward(self, x: Tensor, s: Tensor, *_: object) -> Tensor:
        alpha, sigma = (scale.float().reshape(-1, 1, 1, 1, 1) for scale in cosine(s))
        return sigma * (x - alpha * MEAN) / (alpha**2 * SPREAD**2 + sigma**2)


class FlowOracle(nn.Module):
    """Returns E[eps - x0 | x_t] for the same data."""

    def forward(self, x: Tensor, t: Tensor, *_: object) -> Tensor:
        t = t.reshape(-1, 1, 1, 1, 1)
        data = MEAN + (1 - t) * SPREAD**2 * (x - (1 - t) * MEAN) / ((1 - t) ** 2 * SPREAD**2 + t**2)
        return (x - data) / t


def test_an_exact_noise_predictor_in_a_mixed_pool_gives_the_exact_mixture(monkeypatch: pytest.MonkeyPatch):
    oracles = {0: NoiseOracle(), 1: FlowOracle()}
    monkeypatch.setattr(routed, "_place_expert", lambda config, k, *_: oracles[k])
    pool = ExpertSeats({}, lambda k: k, pick_device("cpu"), 2, ddpm=(0,))  # type: ignore[arg-type, return-value]
    t = torch.tensor([0.02, 0.3, 0.6, 0.9])
    x = torch.randn(4, 3, 2, 4, 4)
    text = Condition(torch.zeros(4, 1, 1), torch.ones(4, 1, dtype=torch.bool), None)
    weights = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.9, 0.1], [0.0, 1.0]])
    torch.testing.assert_close(
        mixed_velocity(pool, weights, x, t, text), oracles[1](x, t), rtol=1e-4, atol=1e-4
    )


def test_the_loss_is_of_the_noise_at_the_schedules_own_clip_and_time(run: TinyRun):
    batch, t = gate_batch(run.gate_job(trained(run, NOISE, "one", 1), NOISE), run.spec)
    asked: list[tuple[Tensor, Tensor]] = []

    class Network(nn.Module):
        def forward(self, x: Tensor, s: Tensor, *_: object) -> Tensor:
            asked.append((x, s))
            return torch.zeros_like(x)

    losses = expert_losses(Network(), batch, t, batch.mask, predicts_noise=True)
    (x_s, s) = asked[0]
    torch.testing.assert_close(s, cosine_time(t).float())
    torch.testing.assert_close(x_s, diffuse(batch.latent.float(), batch.noise, s), rtol=1e-4, atol=1e-4)
    # what the gate's first card is held against
    assert float(losses.mean()) == pytest.approx(zero_loss(run.spec, NOISE, batch), rel=1e-6)
    assert zero_loss(run.spec, NOISE, batch) == pytest.approx(1, abs=0.1)  # E|eps|^2
    assert expert_losses(lambda *_: batch.noise, batch, t, batch.mask, predicts_noise=True).max() == 0  # type: ignore[arg-type]


def test_its_times_are_uniform_on_its_own_schedule_and_one_in_each_slice_at_the_gate(run: TinyRun):
    slices = (torch.arange(100) + 0.5) / 100
    s = cosine_time(times(run.spec, NOISE, torch.special.ndtri(slices.double())))
    torch.testing.assert_close(s, slices.double(), rtol=1e-4, atol=1e-6)
    normal = torch.randn(50, dtype=torch.float64)
    assert torch.equal(times(run.spec, FLOW, normal), torch.sigmoid(normal).float())


@pytest.mark.parametrize("slot", [NOISE, FLOW])
def test_both_kinds_train_and_pass_the_gate_below_a_network_that_knows_nothing(run: TinyRun, slot: str):
    early = trained(run, slot, f"early-{slot}", 30)
    late = trained(run, slot, f"late-{slot}", 120, **run.resume(early))
    first = check_card(run.gate_job(early, slot))
    second = check_card(run.gate_job(late, slot, best_weights_path=early.weights_path))
    assert first.ok, first.reason
    assert second.ok, second.reason
    assert second.loss < second.reference_loss == pytest.approx(first.loss, rel=1e-6)
    assert first.loss < 0.95 * first.reference_loss


def test_resuming_a_noise_predictor_equals_not_stopping_bit_for_bit(run: TinyRun):
    whole = trained(run, NOISE, "whole", 9)
    half = trained(run, NOISE, "half", 4)
    rest = trained(run, NOISE, "rest", 9, **run.resume(half))
    for path in ("weights_path", "resume_path"):
        expected, resumed = load_file(getattr(whole, path)), load_file(getattr(rest, path))
        assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def test_generating_and_the_exported_pipeline_convert_alike(made: MadeRun, tmp_path: Path):
    generate(made.fetched(), made.job(tmp_path / "clips.npy", guidance=1.5, routing="full"))
    export(made.fetched(), tmp_path / "model")
    pipeline = ParisPipeline.from_pretrained(tmp_path / "model")
    pipeline.set_progress_bar_config(disable=True)
    how = {"num_inference_steps": 3, "guidance_scale": 1.5, "routing": "full"}
    frames = pipeline(PROMPTS, **how, rng_seed=0, output_type="uint8").frames
    assert np.array_equal(frames, np.load(tmp_path / "clips.npy"))
    config = dict(ExpertSet.load_config(tmp_path / "model" / "experts"))
    assert (list(config["ddpm"]), config["clamp_x0"], config["clamp_alpha"]) == (
        [0, 2],
        DEFAULT_CLAMP.x0,
        DEFAULT_CLAMP.alpha,
    )


def test_the_exports_own_clamp_is_what_the_pipeline_converts_by(made: MadeRun, tmp_path: Path):
    export(made.fetched(), tmp_path / "model")
    config = tmp_path / "model" / "experts" / "config.json"
    text = config.read_text()

    def frames(clamp_x0: float) -> np.ndarray:
        config.write_text(text.replace('"clamp_x0": 20.0', f'"clamp_x0": {clamp_x0}'))
        pipeline = ParisPipeline.from_pretrained(tmp_path / "model")
        pipeline.set_progress_bar_config(disable=True)
        return np.asarray(
            pipeline(
                PROMPTS,
                num_inference_steps=3,
                guidance_scale=1.0,
                rng_seed=0,
                routing="full",
                output_type="uint8",
            ).frames
        )

    assert (frames(0.1) != frames(20.0)).mean() > 0.1


def training(**changes: object) -> TrainingSpec:
    return TrainingSpec(batch_clips=4, learning_rate=1e-3, **changes)


def test_experts_that_are_not_there_or_named_twice_are_refused(made: MadeRun, tmp_path: Path):
    for wrong in ((1, 0), (1, 1), (-1,), (256,)):
        with pytest.raises(ValidationError):
            training(ddpm_experts=wrong)
    with pytest.raises(ValidationError, match="run of 3 experts"):
        type(made.spec).model_validate(
            {**made.spec.model_dump(), "training": training(ddpm_experts=(3,)).model_dump()}
        )
    prepare_made(tmp_path / "run", experts=2)
    words = dict.fromkeys(("name", "purpose", "data_licence", "weights_licence"), "made")

    def options(k: int) -> CreateOptions:
        chosen = training(ddpm_experts=(k,))
        return CreateOptions(
            **words,
            expert="nano",
            router="nano",
            training=chosen,
            gate=GateSpec(),
            timing=TimingSpec(),
            seal_gate=False,  # so that the reader asked for is that of the training alone
        )

    with pytest.raises(UsageError, match="no expert 2"):
        create_run(tmp_path / "run", options(2), None)
    spec = create_run(tmp_path / "run", options(1), None).record
    assert [slot for slot in spec.slots if spec.predicts_noise(slot)] == ["expert-1"]
    assert spec.oldest_reader == 2
