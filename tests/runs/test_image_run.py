"""Paris 1.0's kind of run: captioned images, one frame, eight experts and a router."""

from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from paris_p2p.codec.video import latent_shape, load_codec
from paris_p2p.data.clips import ClipSet
from paris_p2p.data.prepared import Prepared, split_clips
from paris_p2p.data.splits import SplitOptions
from paris_p2p.errors import UsageError
from paris_p2p.fetched_run import FetchedRun
from paris_p2p.generation.generate import GenerateJob, generate
from paris_p2p.model.presets import count_parameters, expert_config, router_config
from paris_p2p.preparation.create import CreateOptions, create_run
from paris_p2p.preparation.prepare import PrepareOptions, prepare
from paris_p2p.spec import ClipShape, GateSpec, LatentShape, TextShape, TimingSpec, TrainingSpec
from paris_p2p.training.messages import TrainJob
from tests.data.videos import scene, write_video
from tests.made.made_run import save_text_encoder
from tests.made.tiny_run import checkpoint_of, train_here

EXPERTS = 8
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPLITS = SplitOptions(gate_min_clips=24)  # so that every cluster has some


def write_digits(folder: Path, count: int) -> Path:
    """Writes real handwritten digits, enlarged to 16 x 16, as PNG and JPEG, with captions."""
    folder.mkdir()
    digits = load_digits()
    rows = zip(digits.images[:count], digits.target[:count], strict=True)
    for i, (image, target) in enumerate(rows):
        path = folder / f"{i:03d}.{'png' if i % 2 else 'jpg'}"
        Image.fromarray((image * 15).astype(np.uint8)).resize((16, 16), Image.Resampling.BICUBIC).save(path)
        path.with_suffix(".txt").write_text(f"a handwritten {WORDS[target]}")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    save_text_encoder(root / "text")
    write_digits(root / "digits", 320)
    options = PrepareOptions(
        experts=EXPERTS, frames=1, height=16, width=16, text=f"transformers:{root / 'text'}", text_tokens=8
    )
    prepare(root / "digits", root / "run", options.model_copy(update={"feature_frames": 1, "splits": SPLITS}))
    return root


def test_every_image_is_one_clip_of_one_frame_in_one_split(folder):
    prepared = Prepared.load(folder / "run")
    assert sum(prepared.clips.values()) == sum(prepared.sources.values()) == 320
    assert prepared.clip.frames == prepared.latent.frames == 1
    assert len(prepared.clusters) == EXPERTS
    assert "320 images from 320 files" in prepared.describe()
    sources = [{clip.source for clip in split_clips(folder / "run", split)} for split in prepared.clips]
    assert len(set().union(*sources)) == sum(map(len, sources)) == 320


def test_eight_experts_and_a_router_learn_from_images_and_make_images(folder):
    run = folder / "run"
    training = TrainingSpec(
        batch_clips=4, learning_rate=3e-3, warmup_steps=2, router_batch_clips=8, ema_decay=0.5
    )
    options = CreateOptions(
        name="digits", purpose="tests", data_licence="BSD", weights_licence="CC0",
        expert="nano", router="nano", training=training, gate=GateSpec(), timing=TimingSpec(),
    )  # fmt: skip
    signed = create_run(run, options, None)
    prepared, weights = Prepared.load(run), {}
    for slot in signed.record.slots:
        (folder / slot).mkdir()
        shards = [s for s in prepared.shards_for("train") if slot in ("router", f"expert-{s.cluster}")]
        paths, clusters = tuple(run / s.path for s in shards), tuple(s.cluster for s in shards)
        job = TrainJob(
            run=signed.id,
            slot=slot,
            spec_path=run / "run.spec",
            shard_paths=paths,
            shard_clusters=clusters,
            device="cpu",
            threads=1,
            checkpoint_s=0,
            max_steps=4,
            out_dir=folder / slot,
        )
        weights[slot] = checkpoint_of(train_here(job)).weights_path
    out = folder / "made.png"
    prompts = ("a handwritten three", "a handwritten eight")
    made = generate(
        FetchedRun(signed, weights, {}, run / "codec", run / "text"),
        GenerateJob(prompts=prompts, steps=3, device="cpu", threads=1, out=out),
    )
    assert [path.name for path in made.paths] == ["made-000.png", "made-001.png"]
    assert made.chosen.shape == (2, 3, EXPERTS)
    with Image.open(made.paths[0]) as image:
        assert (image.size, image.mode) == ((16, 16), "RGB")


def test_images_asked_for_as_clips_and_a_mix_say_what_to_do(folder, tmp_path):
    options = PrepareOptions(experts=2, height=16, width=16)
    with pytest.raises(
        UsageError, match=r"320 images .*an image has one frame, not 8: prepare them with --frames 1"
    ):
        prepare(folder / "digits", tmp_path / "out", options)
    mix = write_digits(tmp_path / "mix", 3)
    write_video(mix / "film.mp4", scene(0, np.random.default_rng(0)))
    (mix / "film.txt").write_text("a film")
    with pytest.raises(
        UsageError,
        match=r"3 images .* beside 1 videos: move the images away, or make a run of images and stills",
    ):
        prepare(mix, tmp_path / "out", options)


def test_videos_give_stills_where_a_clip_is_one_frame(folder, tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    for i in range(12):
        write_video(clips / f"{i}.mp4", scene(i % 3, np.random.default_rng(i)))
        (clips / f"{i}.txt").write_text(f"scene {i}")
    options = PrepareOptions(
        experts=1, frames=1, height=16, width=16, clips_per_video=4, text=f"transformers:{folder / 'text'}"
    )
    prepared = prepare(
        clips, tmp_path / "out", options.model_copy(update={"feature_frames": 1, "text_tokens": 8})
    )
    assert sum(prepared.clips.values()) == 48
    assert sum(prepared.sources.values()) == 12


def test_an_autoencoder_of_sd_vaes_layout_codes_images(folder, tmp_path):
    torch.manual_seed(0)
    layout = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (4,) * 4,
    }
    vae = diffusers.AutoencoderKL(**layout, latent_channels=4, norm_num_groups=2, scaling_factor=0.18215)
    vae.save_pretrained(tmp_path / "sd-vae")
    codec = load_codec(f"diffusers:{tmp_path / 'sd-vae'}")
    assert latent_shape(codec, ClipShape(frames=1, height=256, width=256, fps=8.0)).shape == (4, 1, 32, 32)
    options = PrepareOptions(
        experts=1, frames=1, height=16, width=16, codec=codec.name, text=f"transformers:{folder / 'text'}"
    )
    write_digits(tmp_path / "digits", 40)
    prepared = prepare(
        tmp_path / "digits",
        tmp_path / "out",
        options.model_copy(update={"feature_frames": 1, "text_tokens": 8}),
    )
    assert prepared.latent.shape == (4, 1, 2, 2)
    shards = prepared.shards_for("train")
    image = next(split_clips(tmp_path / "out", "train")).pixels(prepared.clip)
    stored = ClipSet([tmp_path / "out" / shard.path for shard in shards], [0] * len(shards))[0].latent
    assert torch.allclose(codec.encode(torch.from_numpy(image)[None])[0], stored, atol=2e-3)


@pytest.mark.parametrize(("preset", "millions"), [("dit-b-2", 129), ("dit-xl-2", 605)])
def test_paris_1s_networks_are_as_large_on_its_latents_as_published(preset, millions):
    latent, text = (
        LatentShape(channels=4, frames=1, height=32, width=32),
        TextShape(tokens=77, dim=768, pooled_dim=768),
    )
    config = expert_config(preset, latent, text)
    assert config["patch_height"] == config["patch_width"] == 2  # 256 tokens of an image
    assert abs(count_parameters(config) / 1e6 - millions) < 0.03 * millions
    router = router_config("dit-b-2", latent, text, EXPERTS)
    assert abs(count_parameters(router, router=True) / 1e6 - 129) < 0.03 * 129
