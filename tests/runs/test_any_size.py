"""Tests that nothing on the way from clips to clips assumes a size.

Odd latents, few frames and images go from preparing to the exported model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from paris_p2p.data.prepared import Prepared
from paris_p2p.envelope import Envelope
from paris_p2p.fetched_run import FetchedRun
from paris_p2p.generation.export import export
from paris_p2p.generation.generate import GenerateJob, generate
from paris_p2p.generation.pipeline import ParisPipeline
from paris_p2p.preparation.create import CreateOptions, create_run
from paris_p2p.preparation.prepare import PrepareOptions, prepare
from paris_p2p.spec import GateSpec, RunSpec, TimingSpec, TrainingSpec
from paris_p2p.training.gate import check_card
from paris_p2p.training.messages import CheckpointReady, GateJob, TrainJob
from tests.data.videos import scene, write_video
from tests.made.made_run import save_text_encoder
from tests.made.tiny_run import checkpoint_of, train_here

PROMPT = "a red ball"


def prepared(folder: Path, frames: int, height: int, width: int) -> tuple[Path, Prepared]:
    """Prepares 40 captioned videos as clips of such a size.

    Features and text encoder have random weights.
    """
    clips, rng = folder / "clips", np.random.default_rng(0)
    clips.mkdir()
    for i in range(40):
        write_video(clips / f"{i:03}.mp4", scene(i % 3, rng))
        (clips / f"{i:03}.txt").write_text(PROMPT)
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    Dinov2Model(config).save_pretrained(folder / "features")
    save_text_encoder(folder / "text")
    shape = {"frames": frames, "height": height, "width": width, "feature_frames": 1, "text_tokens": 6}
    models = {"features": f"transformers:{folder / 'features'}", "text": f"transformers:{folder / 'text'}"}
    return folder / "run", prepare(
        clips, folder / "run", PrepareOptions(experts=1, threads=1, **shape, **models)
    )


def created(folder: Path) -> Envelope[RunSpec]:
    words = dict.fromkeys(("name", "purpose", "data_licence", "weights_licence"), "made")
    training = TrainingSpec(batch_clips=4, learning_rate=3e-3, router_batch_clips=4, warmup_steps=1)
    options = CreateOptions(
        **words,
        expert="nano",
        router="nano",
        training=training,
        gate=GateSpec(clips=8),
        timing=TimingSpec(),
        shift_by_tokens=True,
    )
    return create_run(folder, options, None)


def trained(folder: Path, run: Envelope[RunSpec], shards: Prepared, slot: str) -> CheckpointReady:
    """Trains a slot for a few steps, which pass the gate."""
    common = {"run": run.id, "slot": slot, "spec_path": folder / "run.spec", "device": "cpu", "threads": 1}

    def files(split: str) -> dict[str, tuple[object, ...]]:
        refs = shards.shards_for(split)  # type: ignore[arg-type]
        return {
            "shard_paths": tuple(folder / ref.path for ref in refs),
            "shard_clusters": tuple(ref.cluster for ref in refs),
        }

    out = folder / slot
    out.mkdir()
    ready = checkpoint_of(
        train_here(TrainJob(**common, **files("train"), checkpoint_s=0, max_steps=10, out_dir=out))
    )
    made = {
        "weights_path": ready.weights_path,
        "resume_path": ready.resume_path,
        "steps": ready.steps,
        "clips": ready.clips,
    }
    result = check_card(GateJob(**common, **files("gate"), card="12" * 32, **made))
    assert result.ok, result.reason
    return ready


@pytest.mark.parametrize(
    ("frames", "height", "width", "latent"),
    [(5, 40, 24, (5, 10, 6)), (1, 20, 28, (1, 5, 7)), (3, 20, 44, (3, 5, 11))],
    ids=["video", "image", "wide video"],
)
def test_a_run_of_any_size_is_prepared_trained_gated_sampled_and_exported(
    tmp_path: Path, frames, height, width, latent
):
    folder, shards = prepared(tmp_path, frames, height, width)
    run = created(folder)
    spec = run.record
    assert spec.latent.shape[1:] == latent
    weights = {slot: trained(folder, run, shards, slot).weights_path for slot in spec.slots}
    fetched = FetchedRun(run, weights, {}, folder / "codec", folder / "text")
    generate(
        fetched,
        GenerateJob(prompts=(PROMPT,), steps=2, device="cpu", threads=1, out=tmp_path / "clip.npy"),
    )
    expected = np.load(tmp_path / "clip.npy")
    assert expected.shape == (1, frames, height, width, 3)
    export(fetched, tmp_path / "model")
    pipeline = ParisPipeline.from_pretrained(tmp_path / "model")
    pipeline.set_progress_bar_config(disable=True)
    frames = pipeline(PROMPT, num_inference_steps=2, rng_seed=0, output_type="uint8").frames
    assert np.array_equal(frames, expected)
