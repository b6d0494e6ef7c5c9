"""`--codec train`: what prepare makes of it."""

import json

import pytest
import torch

from paris_p2p.codec.video import load_codec
from paris_p2p.data.prepared import Prepared, split_clips
from paris_p2p.data.splits import SplitOptions
from paris_p2p.work import learned as learned_module
from paris_p2p.work.prepare import PrepareOptions, prepare
from tests.work.made_run import save_text_encoder
from tests.work.test_image_run import write_digits


def test_a_trained_codec_travels_with_the_run_saw_train_clips_only_and_is_compared_with_pca(tmp_path, monkeypatch):
    save_text_encoder(tmp_path / "text")
    write_digits(tmp_path / "digits", 60)
    seen: set[str] = set()
    original = learned_module._clips
    monkeypatch.setattr(learned_module, "_clips", lambda sources, *rest: seen.update(s.name for s in sources) or original(sources, *rest))
    options = PrepareOptions(experts=1, frames=1, height=16, width=16, codec="train", codec_steps=3, features="efficientnet-lite0")
    options = options.model_copy(update={"text": f"transformers:{tmp_path / 'text'}", "text_tokens": 8, "splits": SplitOptions()})
    prepared = prepare(tmp_path / "digits", tmp_path / "out", options)
    assert prepared.codec.name == "diffusers:trained-image"
    assert set(prepared.codec.files) == {"config.json", "diffusion_pytorch_model.safetensors"}
    assert seen
    assert seen <= {clip.source for clip in split_clips(tmp_path / "out", "train")}
    codec = load_codec(prepared.codec.name, tmp_path / "out" / "codec", sha256=prepared.codec.sha256)
    clip = next(split_clips(tmp_path / "out", "train")).pixels(prepared.clip)
    assert codec.encode(torch.from_numpy(clip)[None]).shape[1:] == prepared.latent.shape == (8, 1, 4, 4)
    report = json.loads((tmp_path / "out" / "report.json").read_text())["codec"]
    assert report == {"name": prepared.codec.name, "psnr_db": prepared.codec_psnr_db, "pca_psnr_db": prepared.pca_psnr_db}
    assert abs(prepared.pca_psnr_db - prepared.codec_psnr_db) < 1.5  # three steps away from PCA
    assert f"trained {prepared.codec_psnr_db:.1f} dB, PCA {prepared.pca_psnr_db:.1f} dB" in prepared.describe()
    assert Prepared.load(tmp_path / "out") == prepared
    monkeypatch.setattr(learned_module, "fit_autoencoder", lambda *_: pytest.fail("it was fitted again"))
    assert prepare(tmp_path / "digits", tmp_path / "out", options) == prepared
