"""Tests `--codec train`: what prepare makes of it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from paris_p2p.codec.video import load_codec
from paris_p2p.data.clips import ClipSet
from paris_p2p.data.prepared import Prepared, split_clips
from paris_p2p.data.splits import SplitOptions
from paris_p2p.errors import DataError, UsageError
from paris_p2p.fetched_run import FetchedRun
from paris_p2p.generation.generate import GenerateJob, generate
from paris_p2p.preparation import fit_codec as learned_module
from paris_p2p.preparation.create import CreateOptions, create_run
from paris_p2p.preparation.prepare import PrepareOptions, prepare
from paris_p2p.spec import GateSpec, TimingSpec, TrainingSpec
from paris_p2p.training.messages import TrainJob
from tests.made.made_run import save_text_encoder
from tests.made.tiny_run import checkpoint_of, train_here
from tests.runs.test_first_feature import write_clips
from tests.runs.test_image_run import write_digits


def test_a_trained_codec_travels_with_the_run_saw_train_clips_only_and_is_compared_with_pca(
    tmp_path, monkeypatch
):
    save_text_encoder(tmp_path / "text")
    write_digits(tmp_path / "digits", 60)
    seen: set[str] = set()
    original = learned_module._clips
    monkeypatch.setattr(
        learned_module,
        "_clips",
        lambda sources, *rest: seen.update(s.name for s in sources) or original(sources, *rest),
    )
    options = PrepareOptions(
        experts=1, frames=1, height=16, width=16, codec="train", codec_steps=3, features="efficientnet-lite0"
    )
    options = options.model_copy(
        update={"text": f"transformers:{tmp_path / 'text'}", "text_tokens": 8, "splits": SplitOptions()}
    )
    prepared = prepare(tmp_path / "digits", tmp_path / "out", options)
    assert prepared.codec.name == "diffusers:trained-image"
    assert set(prepared.codec.files) == {"config.json", "diffusion_pytorch_model.safetensors"}
    assert seen
    assert seen <= {clip.source for clip in split_clips(tmp_path / "out", "train")}
    codec = load_codec(prepared.codec.name, tmp_path / "out" / "codec", sha256=prepared.codec.sha256)
    clip = next(split_clips(tmp_path / "out", "train")).pixels(prepared.clip)
    assert codec.encode(torch.from_numpy(clip)[None]).shape[1:] == prepared.latent.shape == (8, 1, 4, 4)
    report = json.loads((tmp_path / "out" / "report.json").read_text())["codec"]
    assert report == {
        "name": prepared.codec.name,
        "psnr_db": prepared.codec_psnr_db,
        "pca_psnr_db": prepared.pca_psnr_db,
    }
    assert abs(prepared.pca_psnr_db - prepared.codec_psnr_db) < 1.5  # three steps away from PCA
    assert (
        f"trained {prepared.codec_psnr_db:.1f} dB, PCA {prepared.pca_psnr_db:.1f} dB" in prepared.describe()
    )
    assert Prepared.load(tmp_path / "out") == prepared
    monkeypatch.setattr(learned_module, "fit_autoencoder", lambda *_: pytest.fail("it was fitted again"))
    assert prepare(tmp_path / "digits", tmp_path / "out", options) == prepared


def test_a_video_codec_halves_the_frames_and_is_compared_with_pca_of_as_many_numbers(tmp_path):
    save_text_encoder(tmp_path / "text")
    clips = write_clips(tmp_path / "clips")
    shape = {"experts": 1, "frames": 5, "height": 16, "width": 16, "text_tokens": 8, "threads": 1}
    options = PrepareOptions(
        **shape,
        text=f"transformers:{tmp_path / 'text'}",
        codec="train:video",
        codec_steps=3,
        image_to_video=True,
    )
    with pytest.raises(UsageError, match="odd number of frames, 3 or more, not 8; prepare with --frames 9"):
        prepare(clips, tmp_path / "even", options.model_copy(update={"frames": 8}))
    prepared = prepare(clips, tmp_path / "out", options)
    assert prepared.codec.name == "diffusers:trained-video"
    assert prepared.latent.shape == (16, 3, 4, 4)  # a frame of PCA's would have 8 channels
    codec = load_codec(prepared.codec.name, tmp_path / "out" / "codec", sha256=prepared.codec.sha256)
    split = next(split_clips(tmp_path / "out", "train"))
    pixels = torch.from_numpy(split.pixels(prepared.clip))[None]
    latents = codec.encode(pixels)
    shards = prepared.shards_for("train")
    stored = ClipSet(
        [tmp_path / "out" / shard.path for shard in shards],
        [0] * len(shards),
        first_width=prepared.first_width,
    )
    nearest = min(
        float((stored.stored(row).latent.float() - latents[0]).square().mean()) for row in range(len(stored))
    )
    assert nearest < 0.02**2  # of unit variance: what was stored is what the codec that travels makes
    assert abs(prepared.pca_psnr_db - prepared.codec_psnr_db) < 6  # three steps away from PCA of pairs
    assert (
        f"trained {prepared.codec_psnr_db:.1f} dB, PCA {prepared.pca_psnr_db:.1f} dB" in prepared.describe()
    )

    image = tmp_path / "first.png"
    Image.fromarray(pixels[0, 0].numpy()).save(image)
    assert make_video(tmp_path / "out", prepared, image).shape == pixels[0].shape


def make_video(run: Path, prepared: Prepared, image: Path) -> torch.Tensor:
    """Makes a run of these clips, trains each slot two steps, and starts a clip from the image.

    The clip is uint8 [T, H, W, 3].
    """
    words = dict.fromkeys(("name", "purpose", "data_licence", "weights_licence"), "made")
    training = TrainingSpec(
        batch_clips=2,
        learning_rate=1e-3,
        warmup_steps=1,
        router_batch_clips=2,
        ema_decay=0.5,
        first_frame_rate=0.5,
    )
    options = CreateOptions(
        **words, expert="nano", router="nano", training=training, gate=GateSpec(), timing=TimingSpec()
    )
    signed = create_run(run, options, None)
    shards, weights = prepared.shards_for("train"), {}
    for slot in signed.record.slots:
        (run / slot).mkdir()
        files = {
            "shard_paths": tuple(run / shard.path for shard in shards),
            "shard_clusters": tuple(shard.cluster for shard in shards),
        }
        how = {"device": "cpu", "threads": 1, "checkpoint_s": 0, "max_steps": 2, "out_dir": run / slot}
        job = TrainJob(run=signed.id, slot=slot, spec_path=run / "run.spec", **files, **how)
        weights[slot] = checkpoint_of(train_here(job)).weights_path
    out = run / "made.npy"
    generate(
        FetchedRun(signed, weights, {}, run / "codec", run / "text", run / "features"),
        GenerateJob(prompts=("take 3",), steps=3, image=image, device="cpu", threads=1, out=out),
    )
    return torch.from_numpy(np.load(out))[0]


def test_what_is_measured_on_is_spread_over_the_sources():
    names = [f"{game}-{i:03d}" for game in ("hall", "maze") for i in range(20)]
    fitted, measured = learned_module._hold_out(names)
    assert sorted(fitted + measured) == names
    assert len(measured) == 8
    assert {name[:4] for name in measured} == {"hall", "maze"}
    with pytest.raises(DataError, match="3 files are too few"):
        learned_module._hold_out(names[:3])
