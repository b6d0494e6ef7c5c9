"""Tests a run of multimodal transformers: trained, gated, generated from, exported."""

import numpy as np
import pytest

from paris_p2p.generation.export import export
from paris_p2p.generation.generate import generate
from paris_p2p.generation.pipeline import ParisPipeline
from paris_p2p.model.mmdit import MMDiT
from paris_p2p.model.plain_mmdit import PlainMMDiT
from paris_p2p.training.gate import check_card
from paris_p2p.training.objective import build_network
from tests.made.made_run import PROMPTS, MadeRun
from tests.made.tiny_run import TinyRun, checkpoint_of, train_here


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return TinyRun(tmp_path_factory.mktemp("mmdit"), preset="mmdit-nano")


def test_training_lowers_the_gates_loss_below_a_network_that_knows_nothing(run: TinyRun):
    ready = checkpoint_of(train_here(run.train_job(max_steps=60)))
    assert isinstance(build_network(run.run, run.spec, "expert-1"), PlainMMDiT)
    result = check_card(run.gate_job(ready))
    assert result.ok, result.reason
    assert result.loss < 0.95 * result.reference_loss


def test_generating_and_the_exported_pipeline_make_the_same_clips(tmp_path):
    made = MadeRun(tmp_path, preset="mmdit-nano")
    generate(made.fetched(), made.job(tmp_path / "clips.npy", guidance=2.0, top_k=2))
    export(made.fetched(), tmp_path / "model")
    pipeline = ParisPipeline.from_pretrained(tmp_path / "model")
    pipeline.set_progress_bar_config(disable=True)
    assert type(pipeline.experts.expert(0)) is MMDiT
    made = pipeline(
        PROMPTS, num_inference_steps=3, guidance_scale=2.0, rng_seed=0, top_k=2, output_type="uint8"
    ).frames
    assert np.array_equal(made, np.load(tmp_path / "clips.npy"))
