"""Tests a run whose experts are given first frames.

It is trained, gated, created, generated from an image and exported.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from blake3 import blake3
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn

from paris_p2p.codec.pca import PcaCodec
from paris_p2p.codec.video import check_first_latent
from paris_p2p.data.batches import Batch
from paris_p2p.device import pick_device
from paris_p2p.errors import UsageError
from paris_p2p.flow.condition import Condition
from paris_p2p.flow.guidance import guided_velocity
from paris_p2p.flow.mixture import Routing
from paris_p2p.flow.path import clip_losses, interpolate, logit_normal, velocity
from paris_p2p.flow.sampler import sample, time_grid
from paris_p2p.generation import routed
from paris_p2p.generation.export import export
from paris_p2p.generation.generate import generate
from paris_p2p.generation.pipeline import ParisPipeline
from paris_p2p.generation.routed import Chooser, ExpertSeats
from paris_p2p.model.first_frame import first_condition
from paris_p2p.model.presets import build_expert, expert_config
from paris_p2p.preparation.create import CreateOptions, create_run
from paris_p2p.spec import ClipShape, GateSpec, LatentShape, TextShape, TimingSpec, TrainingSpec
from paris_p2p.training.gate import check_card
from paris_p2p.training.gate_losses import gate_batch, mean_loss
from paris_p2p.training.messages import CheckpointReady
from paris_p2p.training.objective import FIRST_FRAME_DRAW, train_losses
from tests.made.made_prepared import prepare_made
from tests.made.made_run import CLIP, PROMPTS, MadeRun
from tests.made.tiny_run import TRAINING, TinyRun, checkpoint_of, train_here

SLOT, RATE = "expert-1", 0.5


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return TinyRun(
        tmp_path_factory.mktemp("first"), training=TRAINING.model_copy(update={"first_frame_rate": RATE})
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    return MadeRun(tmp_path_factory.mktemp("made"), first_frame_rate=RATE)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "first.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    return path


def trained(run: TinyRun, out: str, steps: int, **changes: object) -> CheckpointReady:
    return checkpoint_of(train_here(run.train_job(SLOT, out=out, max_steps=steps, **changes)))


class Spy(nn.Module):
    """Answers nothing, and remembers the first frames it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(
        self, x: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, pooled: Tensor, first: Tensor | None = None
    ) -> Tensor:
        if first is not None:
            self.seen.append(first)
        return torch.zeros_like(x)


def batch_of(run: TinyRun) -> tuple[Batch, Tensor]:
    return gate_batch(run.gate_job(trained(run, "one", 1), SLOT), run.spec)


def test_training_and_gate_give_clean_first_frames_to_the_clips_that_the_draws_name(
    run: TinyRun, tiny: TinyRun
):
    batch, t = batch_of(run)
    drawn = batch.uniforms[:, FIRST_FRAME_DRAW] < RATE
    assert 0 < int(drawn.sum()) < len(batch)
    for slot in ("expert-1", "expert-0"):
        spy = Spy()
        train_losses(run.spec, slot, spy, batch)
        assert torch.equal(torch.cat(spy.seen), first_condition(batch.latent.float(), drawn))
    gate = Spy()
    mean_loss(gate, run.spec, SLOT, batch, t, pick_device("cpu"))
    assert torch.equal(torch.cat(gate.seen), first_condition(batch.latent.float(), drawn))
    plain = Spy()
    train_losses(tiny.spec, SLOT, plain, batch)
    assert plain.seen == []


def test_training_lowers_the_gates_loss_below_a_network_that_knows_nothing(run: TinyRun):
    early = trained(run, "early", 30)
    late = trained(run, "late", 60, **run.resume(early))
    assert load_file(late.weights_path)["first_in.weight"].any()
    result = check_card(run.gate_job(late, SLOT, best_weights_path=early.weights_path))
    assert result.ok, result.reason
    assert (
        result.loss
        < result.reference_loss
        == pytest.approx(check_card(run.gate_job(early, SLOT)).loss, rel=1e-6)
    )


def test_resuming_equals_not_stopping_bit_for_bit(run: TinyRun):
    whole, half = trained(run, "whole", 7), trained(run, "half", 3)
    rest = trained(run, "rest", 7, micro_batch_clips=4, **run.resume(half))
    for path in ("weights_path", "resume_path"):
        expected, resumed = load_file(getattr(whole, path)), load_file(getattr(rest, path))
        assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def test_an_expert_that_predicts_noise_gets_the_frame_as_clean_as_the_others(monkeypatch: pytest.MonkeyPatch):
    spies = {0: Spy(), 1: Spy()}
    monkeypatch.setattr(routed, "_place_expert", lambda config, k, *_: spies[k])
    pool = ExpertSeats({}, lambda k: k, pick_device("cpu"), 2, ddpm=(0,))  # type: ignore[arg-type, return-value]
    x, t, mask = torch.randn(2, 3, 2, 4, 4), torch.tensor([0.2, 0.9]), torch.ones(2, 1, dtype=torch.bool)
    first = first_condition(torch.randn(2, 3, 2, 4, 4), torch.ones(2, dtype=torch.bool))
    for k in spies:
        pool.velocity(k, x, t, Condition(torch.zeros(2, 1, 1), mask, torch.zeros(2, 1), first))
        assert torch.equal(spies[k].seen[0], first)


def clips(made: MadeRun, out: Path, **changes: object) -> np.ndarray:
    generate(made.fetched(), made.job(out, guidance=2.0, **changes))
    return np.load(out).astype(int)


@pytest.mark.parametrize("form", ["per_expert", "exact"])
def test_the_image_is_known_with_and_without_the_text_whatever_the_guidance(form: str):
    class Pool:
        def velocity(self, k: int, x: Tensor, t: Tensor, known: Condition) -> Tensor:
            assert known.first is not None
            assert len(known.first) == len(x) == 4
            assert bool(known.first[:, -1].all())  # the mask, in both halves
            return known.first[:, :1] * known.mask.any(1).reshape(-1, 1, 1, 1, 1) + x

    x, t, mask = torch.zeros(2, 1, 1, 4, 4), torch.ones(2), torch.ones(2, 3, dtype=torch.bool)
    first = first_condition(torch.randn(2, 1, 1, 4, 4), torch.ones(2, dtype=torch.bool))
    condition = Condition(torch.zeros(2, 3, 1), mask, None, first)
    asked = guided_velocity(form, Pool(), lambda x, t, pooled: torch.ones(len(x), 1), condition, 3.0)(x, t)
    torch.testing.assert_close(asked, 3 * first[:, :1])


def test_an_image_changes_the_clips_and_their_metadata_names_it(made: MadeRun, image: Path, tmp_path: Path):
    plain, given = clips(made, tmp_path / "a.npy"), clips(made, tmp_path / "b.npy", image=image)
    assert given.shape == plain.shape
    assert (np.abs(given - plain) > 2).mean() > 0.05
    generate(made.fetched(), made.job(tmp_path / "sheet.png", image=image))
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert hashlib.sha256(image.read_bytes()).hexdigest() in json.dumps(sheet.info, default=str)


def test_the_exported_pipeline_starts_from_an_image_as_generate_does(
    made: MadeRun, image: Path, tmp_path: Path
):
    expected = clips(made, tmp_path / "clips.npy", image=image)
    export(made.fetched(), tmp_path / "model")
    pipeline = ParisPipeline.from_pretrained(tmp_path / "model")
    pipeline.set_progress_bar_config(disable=True)
    with Image.open(image) as opened:
        for given in (image, opened):
            made = pipeline(
                PROMPTS,
                num_inference_steps=3,
                guidance_scale=2.0,
                rng_seed=0,
                image=given,
                output_type="uint8",
            ).frames
            assert np.array_equal(made, expected)
    other = Image.fromarray(np.full((40, 50, 3), 200, np.uint8))
    both, same = (
        pipeline(
            PROMPTS[:2],
            num_inference_steps=3,
            guidance_scale=2.0,
            rng_seed=0,
            image=[image, second],
            output_type="uint8",
        ).frames
        for second in (other, image)
    )
    assert np.array_equal(both[0], same[0])
    assert not np.array_equal(both[1], same[1])
    assert np.array_equal(
        same,
        pipeline(
            PROMPTS[:2],
            num_inference_steps=3,
            guidance_scale=2.0,
            rng_seed=0,
            image=image,
            output_type="uint8",
        ).frames,
    )
    with pytest.raises(UsageError, match="3 images for 2 prompts"):
        pipeline(PROMPTS[:2], num_inference_steps=3, guidance_scale=2.0, rng_seed=0, image=[image] * 3)


def test_what_the_run_was_not_trained_for_and_files_that_are_no_picture_are_refused(
    made: MadeRun, image: Path, tmp_path: Path
):
    for name, rate in (("never", 0.0), ("always", 1.0)):
        (tmp_path / name).mkdir()
        other = MadeRun(tmp_path / name, first_frame_rate=rate)
        with pytest.raises(UsageError, match=f"first_frame_rate is {rate:g}"):
            generate(other.fetched(), other.job(tmp_path / "x.npy", image=None if rate else image))
    noise = tmp_path / "noise.png"
    noise.write_bytes(blake3(b"").digest(1000))
    for path in (noise, tmp_path, tmp_path / "absent.png"):
        with pytest.raises(UsageError, match=str(path)):
            generate(made.fetched(), made.job(tmp_path / "x.npy", image=path))


def create(folder: Path, **training: object):
    words = dict.fromkeys(("name", "purpose", "data_licence", "weights_licence"), "made")
    chosen = TrainingSpec(batch_clips=4, learning_rate=1e-3, **{"first_frame_rate": RATE, **training})
    options = CreateOptions(
        **words,
        expert="nano",
        router="nano",
        training=chosen,
        gate=GateSpec(),
        timing=TimingSpec(),
        seal_gate=False,  # so that the reader asked for is that of the training alone
    )
    return create_run(folder, options, None).record


def test_create_makes_experts_that_take_a_first_frame_and_asks_for_readers_that_know(tmp_path: Path):
    prepare_made(tmp_path / "run")
    spec = create(tmp_path / "run")
    assert spec.expert.config["first_frame"] is True
    assert spec.oldest_reader == 2
    prepare_made(tmp_path / "plain")
    plain = create(tmp_path / "plain", first_frame_rate=0.0)
    assert "first_frame" not in plain.expert.config
    assert plain.oldest_reader == 1
    with pytest.raises(ValidationError, match="first_frame"):
        type(spec).model_validate({**spec.model_dump(), "expert": plain.expert.model_dump()})


def test_images_have_no_first_frame_to_start_from(made: MadeRun, tmp_path: Path):
    prepare_made(tmp_path / "run", latent=LatentShape(channels=4, frames=1, height=4, width=6))
    with pytest.raises(UsageError, match="have one"):
        create(tmp_path / "run")
    dumped = made.spec.model_dump()
    with pytest.raises(ValidationError, match="given away whole"):
        type(made.spec).model_validate({**dumped, "latent": {**dumped["latent"], "frames": 1}})


class Blurring(PcaCodec):
    """Encodes each latent frame as half of its neighbour's too."""

    def encode(self, video: Tensor) -> Tensor:
        z = super().encode(video)
        return (z + torch.cat([z[:, :, 1:], z[:, :, -1:]], 2)) / 2


def test_a_codec_whose_first_latent_frame_is_not_the_pictures_own_is_refused_with_the_difference(
    made: MadeRun,
):
    codec = PcaCodec.load(made.codec_folder)
    check_first_latent(codec, CLIP)
    with pytest.raises(UsageError, match=r"differ by [01]\."):
        check_first_latent(Blurring(**vars(codec)), CLIP)
    check_first_latent(Blurring(**vars(codec)), ClipShape(frames=1, height=16, width=24, fps=8.0))


LATENT, TEXT = LatentShape(channels=2, frames=2, height=4, width=4), TextShape(tokens=1, dim=4, pooled_dim=4)


@pytest.mark.parametrize("preset", ["nano", "mmdit-nano"])
def test_clips_made_from_a_picture_start_nearer_to_it_than_clips_made_without(preset: str):
    """Uses four clips, half of the time with their first frame given.

    Then the first frame, and the rest that belongs to it, come out.
    """
    torch.manual_seed(0)
    known = torch.randn(4, *LATENT.shape)
    config = expert_config(preset, LATENT, TEXT, first_frame=True)
    network = learnt(config, known)
    pool = ExpertSeats(config, lambda k: dict(network.named_parameters()), pick_device("cpu"), 1)
    chooser = Chooser(None, 1, [0], Routing("uniform"))
    plain = Condition(torch.zeros(4, 1, 4), torch.zeros(4, 1, dtype=torch.bool), torch.zeros(4, 4))
    given = replace(plain, first=first_condition(known, torch.ones(4, dtype=torch.bool)))
    noise = torch.randn(4, *LATENT.shape)
    errors = {}
    for name, condition in (("plain", plain), ("given", given)):
        made = sample(guided_velocity("per_expert", pool, chooser, condition, 1.0), noise, time_grid(12))
        errors[name] = [
            float((made - known)[:, :, frames].square().mean()) for frames in (slice(0, 1), slice(1, None))
        ]
    assert errors["given"][0] < 0.35 * errors["plain"][0]
    assert errors["given"][1] < 0.6 * errors["plain"][1]


def learnt(config: dict, known: Tensor) -> nn.Module:
    network = build_expert(config)
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3)
    for _ in range(250):
        which, noise = torch.randint(len(known), (32,)), torch.randn(32, *LATENT.shape)
        t, x0, given = logit_normal(torch.randn(32), 0.0, 1.0), known[which], torch.rand(32) < RATE
        none = torch.zeros(32, 1, dtype=torch.bool)
        answer = network(
            interpolate(x0, noise, t),
            t,
            torch.zeros(32, 1, 4),
            none,
            torch.zeros(32, 4),
            first_condition(x0, given),
        )
        loss = clip_losses(answer, velocity(x0, noise)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.requires_grad_(False)
