"""Tests a router that knows a first frame: prepared, created, trained, gated, generated with, exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model

from paris_p2p.data.clips import ClipSet
from paris_p2p.data.prepared import split_clips
from paris_p2p.device import pick_device
from paris_p2p.errors import BlobError, DataError, PresetError, UsageError
from paris_p2p.features.image import load_first_features
from paris_p2p.generation.export import export
from paris_p2p.generation.first_picture import look_at, read_picture
from paris_p2p.generation.generate import generate
from paris_p2p.generation.pipeline import ParisPipeline
from paris_p2p.preparation.create import CreateOptions, create_run
from paris_p2p.preparation.prepare import PrepareOptions, prepare
from paris_p2p.spec import GateSpec, Pinned, TimingSpec, TrainingSpec
from paris_p2p.training.gate import check_card
from paris_p2p.training.gate_losses import gate_batch, mean_loss
from paris_p2p.training.messages import CheckpointReady
from paris_p2p.training.objective import FIRST_FEATURE_DRAW, open_clips, train_losses
from tests.data.shards import write_shard
from tests.data.videos import scene, write_video
from tests.made.made_run import PROMPTS, MadeRun
from tests.made.tiny_run import TRAINING, TinyRun, checkpoint_of, train_here

RATE, WIDTH = 0.5, 6


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a picture network of random weights."""
    folder = tmp_path_factory.mktemp("features") / "random"
    return save_network(folder, 16)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    training = TRAINING.model_copy(update={"first_frame_rate": RATE})
    return TinyRun(tmp_path_factory.mktemp("first"), training=training, first_width=WIDTH)


@pytest.fixture(scope="module")
def made(network: Path, tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    return MadeRun(tmp_path_factory.mktemp("made"), features=network, first_frame_rate=RATE)


def save_network(folder: Path, width: int) -> Path:
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=width, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    Dinov2Model(config).save_pretrained(folder)
    return folder


def trained(run: TinyRun, out: str, steps: int, **changes: object) -> CheckpointReady:
    return checkpoint_of(train_here(run.train_job("router", out=out, max_steps=steps, **changes)))


class Spy(nn.Module):
    """Routes without knowing anything, and remembers the features that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Tensor] = []
        self.rows = 0
        self.calibration = None

    def forward(
        self, x: Tensor | None, t: Tensor | None, pooled: Tensor | None, first: Tensor | None = None
    ) -> Tensor:
        self.rows += next(len(value) for value in (x, pooled) if value is not None)
        if first is not None:
            self.told.append(first)
        return torch.zeros(next(len(value) for value in (x, pooled) if value is not None), 2)


def test_training_and_gate_show_the_router_the_first_frames_that_the_draws_name(run: TinyRun):
    batch, t = gate_batch(run.gate_job(trained(run, "one", 1), "router"), run.spec)
    drawn = batch.uniforms[:, FIRST_FEATURE_DRAW] < RATE
    assert batch.first is not None
    assert 0 < int(drawn.sum()) < len(batch)
    expected = batch.first[drawn].float()
    training, gate = Spy(), Spy()
    train_losses(run.spec, "router", training, batch)
    mean_loss(gate, run.spec, "router", batch, t, pick_device("cpu"))
    for spy in (training, gate):
        assert spy.rows == len(batch)
        told = torch.cat(spy.told)
        assert sorted(map(tuple, told.tolist())) == sorted(map(tuple, expected.tolist()))


def test_resuming_equals_not_stopping_bit_for_bit_and_the_gate_is_content(run: TinyRun):
    whole, half = trained(run, "whole", 20), trained(run, "half", 8)
    rest = trained(run, "rest", 20, **run.resume(half))
    for path in ("weights_path", "resume_path"):
        expected, resumed = load_file(getattr(whole, path)), load_file(getattr(rest, path))
        assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    weights = load_file(whole.weights_path)
    assert weights["first_in.weight"].any()
    assert weights["no_first"].any()
    result = check_card(run.gate_job(whole, "router"))
    assert result.ok, result.reason


def test_experts_leave_the_features_and_a_router_insists_on_its_width(run: TinyRun, tmp_path: Path):
    assert open_clips(run.train_job("expert-0"), run.spec).stored(0).first is None
    stored = open_clips(run.train_job("router"), run.spec).stored(0)
    assert stored.first is not None
    assert stored.size_bytes == sum(
        part.nbytes for part in (stored.latent, stored.tokens, stored.mask, stored.pooled, stored.first)
    )
    plain, narrow = (
        write_shard(tmp_path / "plain.tar", 0, 1),
        write_shard(tmp_path / "narrow.tar", 0, 1, first_width=WIDTH - 1),
    )
    assert ClipSet([narrow], [0]).stored(0).first is None
    for path, words in ((plain, "has tensors"), (narrow, "first is")):
        with pytest.raises(DataError, match=words):
            ClipSet([path], [0], first_width=WIDTH).stored(0)


def test_a_spec_names_the_network_the_width_and_the_rate_together(run: TinyRun):
    dumped = run.spec.model_dump()
    router = {
        **dumped["router"],
        "config": {name: value for name, value in run.spec.router.config.items() if name != "first_width"},
    }
    for changes in ({"first_features": None}, {"router": router}, {"training": TRAINING.model_dump()}):
        with pytest.raises(ValidationError, match="go together"):
            type(run.spec).model_validate({**dumped, **changes})


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{name}.png" for name in ("a", "b")]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    return paths


def test_the_router_routes_by_the_image_and_the_exported_pipeline_alike(
    made: MadeRun, images: list[Path], tmp_path: Path
):
    chosen = []
    for number, image in enumerate((*images, None)):
        result = generate(
            made.fetched(), made.job(tmp_path / f"{number}.npy", guidance=2.0, routing="full", image=image)
        )
        # pure noise is all else that the first step sees, and it is the same
        chosen.append(result.chosen[:, 0])
    assert all((chosen[a] - chosen[b]).abs().max() > 1e-4 for a, b in ((0, 1), (0, 2), (1, 2)))
    export(made.fetched(), tmp_path / "model")
    pipeline = ParisPipeline.from_pretrained(tmp_path / "model")
    pipeline.set_progress_bar_config(disable=True)
    output = pipeline(
        PROMPTS,
        num_inference_steps=3,
        guidance_scale=2.0,
        rng_seed=0,
        routing="full",
        image=images[0],
        output_type="uint8",
    )
    assert np.array_equal(output.frames, np.load(tmp_path / "0.npy"))
    assert np.array_equal(output.experts[:, 0], chosen[0].numpy())


def test_a_network_of_another_width_or_one_that_is_code_is_refused(
    made: MadeRun, images: list[Path], tmp_path: Path
):
    folder = save_network(tmp_path / "wide", 32)
    picture = read_picture(images[0], made.spec.clip)
    with pytest.raises(DataError, match="gives 32 numbers"):
        look_at(load_first_features("transformers:x", folder), picture, 16, torch.device("cpu"))
    with pytest.raises(BlobError, match="the run was made with"):
        generate(made.fetched(features_folder=folder), made.job(tmp_path / "x.npy", image=images[0]))
    for name in ("i3d:some.pt", "videomae:x/y", "transnetv2"):
        with pytest.raises(PresetError, match="first frames are looked at by"):
            load_first_features(name)


def write_clips(folder: Path) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(30):
        write_video(folder / f"{i:03d}.mp4", scene(i % 3, rng))
        (folder / f"{i:03d}.txt").write_text(f"take {i}")
    return folder


def test_prepare_looks_at_first_frames_and_create_pins_who_looked(network: Path, tmp_path: Path):
    clips = write_clips(tmp_path / "clips")
    shape = {"experts": 1, "height": 16, "width": 16, "text_tokens": 8, "threads": 1}
    options = PrepareOptions(**shape, features=f"transformers:{network}", image_to_video=True)
    prepared = prepare(clips, tmp_path / "run", options)
    assert prepared.first_width == 16
    assert "16 features of transformers:random" in prepared.describe()
    shards = prepared.shards_for("train")
    stored = ClipSet([tmp_path / "run" / shard.path for shard in shards], [0] * len(shards), first_width=16)
    seen = load_first_features("transformers:x/y", tmp_path / "run" / "features")
    split = next(split_clips(tmp_path / "run", "train"))
    again = seen(torch.from_numpy(split.pixels(prepared.clip))[None][:, :1])[0]
    firsts = torch.stack([stored.stored(index).first.float() for index in range(len(stored))])
    assert float((firsts - again).abs().amax(1).min()) < 0.02

    words = dict.fromkeys(("name", "purpose", "data_licence", "weights_licence"), "made")
    training = TrainingSpec(batch_clips=4, learning_rate=1e-3, first_frame_rate=RATE)
    chosen = CreateOptions(
        **words, expert="nano", router="nano", training=training, gate=GateSpec(), timing=TimingSpec()
    )
    spec = create_run(tmp_path / "run", chosen, None).record
    assert spec.first_width == 16
    assert isinstance(spec.first_features, Pinned)
    assert set(spec.first_features.files) == {"config.json", "model.safetensors"}
    assert set(spec.first_features.files.values()) <= set(spec.data_blobs)


def test_networks_that_look_at_videos_and_runs_of_images_are_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="nothing to go on to"):
        prepare(tmp_path, tmp_path / "run", PrepareOptions(experts=1, frames=1, image_to_video=True))
    clips = write_clips(tmp_path / "clips")
    options = PrepareOptions(
        experts=1, height=16, width=16, features="transnetv2", image_to_video=True, threads=1
    )
    with pytest.raises(UsageError, match="does not look at single pictures"):
        prepare(clips, tmp_path / "run", options)
