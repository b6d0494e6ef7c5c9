"""Tests a run's time shift.

It acts once in training, gate and router, and once in the grid that is sampled on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from paris_p2p.errors import UsageError
from paris_p2p.flow.path import logit_normal, shift_for, shifted
from paris_p2p.generation.export import export
from paris_p2p.generation.generate import generate
from paris_p2p.generation.pipeline import ParisPipeline
from paris_p2p.model.presets import count_tokens
from paris_p2p.preparation.create import CreateOptions, create_run
from paris_p2p.spec import GateSpec, LatentShape, TimingSpec, TrainingSpec
from paris_p2p.training.gate_losses import gate_batch
from paris_p2p.training.objective import times
from tests.made.made_prepared import prepare_made
from tests.made.made_run import PROMPTS, MadeRun
from tests.made.tiny_run import TRAINING, TinyRun, checkpoint_of, train_here

SHIFT = 4.0


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return TinyRun(
        tmp_path_factory.mktemp("moved"), training=TRAINING.model_copy(update={"time_shift": SHIFT})
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    return MadeRun(tmp_path_factory.mktemp("made"), time_shift=SHIFT)


def test_training_times_are_shifted_once_and_an_unshifted_runs_are_as_ever(moved: TinyRun, tiny: TinyRun):
    normal = torch.randn(1000, dtype=torch.float64)
    plain = logit_normal(normal, 0.0, 1.0)
    assert torch.equal(times(tiny.spec, "expert-0", normal), plain.float())
    torch.testing.assert_close(times(moved.spec, "router", normal), shifted(plain, SHIFT).float())


@pytest.mark.parametrize("slot", ["expert-1", "router"])
def test_the_gates_times_are_the_trainings(moved: TinyRun, slot: str):
    ready = checkpoint_of(train_here(moved.train_job(slot, out=slot, max_steps=1)))
    batch, t = gate_batch(moved.gate_job(ready, slot), moved.spec)
    logits = torch.special.ndtr(torch.logit(t.double()) - np.log(SHIFT)) * len(batch)
    assert logits.floor().tolist() == list(range(len(batch)))  # one in each slice of the shifted distribution


def clips(made: MadeRun, out: Path, **changes: object) -> np.ndarray:
    generate(made.fetched(), made.job(out, guidance=2.0, **changes))
    return np.load(out)


def test_generating_and_the_exported_pipeline_sample_on_the_runs_shifted_grid(made: MadeRun, tmp_path: Path):
    expected = clips(made, tmp_path / "a.npy").astype(int)
    assert np.array_equal(clips(made, tmp_path / "b.npy", shift=SHIFT), expected)
    # the override is heard
    assert (np.abs(clips(made, tmp_path / "c.npy", shift=1.0) - expected) > 2).mean() > 0.1
    export(made.fetched(), tmp_path / "model")
    pipeline = ParisPipeline.from_pretrained(tmp_path / "model")
    pipeline.set_progress_bar_config(disable=True)
    how = {"num_inference_steps": 3, "guidance_scale": 2.0, "output_type": "uint8"}
    assert np.array_equal(pipeline(PROMPTS, **how, rng_seed=0).frames, expected)


def options(**changes: object) -> CreateOptions:
    words = dict.fromkeys(("name", "purpose", "data_licence", "weights_licence"), "made")
    training = TrainingSpec(batch_clips=4, learning_rate=1e-3, time_shift=SHIFT)
    return CreateOptions(
        **words,
        expert="nano",
        router="nano",
        training=training,
        gate=GateSpec(),
        timing=TimingSpec(),
        seal_gate=False,  # so that the reader asked for is that of the training alone
        **changes,
    )


def test_create_takes_the_owners_shift_or_the_token_counts(tmp_path: Path):
    wide = LatentShape(channels=4, frames=9, height=16, width=14)  # 9 x 8 x 7 patches
    for folder in ("owners", "counted"):
        prepare_made(tmp_path / folder, latent=wide)
    chosen = create_run(tmp_path / "owners", options(), None).record
    counted = create_run(tmp_path / "counted", options(shift_by_tokens=True), None).record
    assert chosen.training.time_shift == SHIFT
    assert count_tokens(counted.expert.config, wide.shape) == 504
    assert counted.training.time_shift == shift_for(504) > 1
    assert (chosen.oldest_reader, counted.oldest_reader) == (2, 2)  # an older reader would train it unshifted


def test_a_shift_that_no_run_may_have_is_refused_by_create(tmp_path: Path):
    prepare_made(tmp_path / "run", latent=LatentShape(channels=4, frames=2000, height=100, width=100))
    with pytest.raises(UsageError, match="time_shift cannot be"):
        create_run(tmp_path / "run", options(shift_by_tokens=True), None)
