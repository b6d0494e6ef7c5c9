"""One engine: what the command line makes of a run, the exported pipeline makes too, byte for byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from paris_p2p.errors import DataError, UsageError
from paris_p2p.flow.guidance import FORMS
from paris_p2p.generation import routed
from paris_p2p.generation.engine import clip_numbers, step_generators
from paris_p2p.generation.export import export
from paris_p2p.generation.generate import GenerateJob, generate
from paris_p2p.generation.pipeline import ParisPipeline
from paris_p2p.generation.pipeline_inputs import ParisOutput
from paris_p2p.generation.schedulers import SCHEDULERS, make_scheduler
from tests.generation.exported import loaded, random_picture
from tests.made.made_run import PROMPTS, MadeRun
from tests.runs.test_first_feature import save_network

NEGATIVE = "red ball"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    return MadeRun(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def pipeline(made: MadeRun, tmp_path_factory: pytest.TempPathFactory) -> ParisPipeline:
    folder = tmp_path_factory.mktemp("exported") / "model"
    export(made.fetched(), folder)
    return loaded(folder)


def call(pipeline: ParisPipeline, job: GenerateJob) -> ParisOutput:
    """Calls the pipeline as the job asks `generate`."""
    pipeline.scheduler = make_scheduler(job.scheduler, float(pipeline.scheduler.config.get("shift", 1.0)))
    return pipeline(
        list(job.prompts),
        job.negative_prompt or None,
        num_inference_steps=job.steps,
        guidance_scale=job.guidance,
        num_videos_per_prompt=job.clips_per_prompt,
        rng_seed=job.rng_seed,
        guidance_form=job.guidance_form,
        routing=job.routing,
        top_k=job.top_k,
        kept_until=job.kept_until,
        guidance_interval=job.guidance_interval,
        image=job.image,
        output_type="uint8",
    )


def assert_both_make_the_same(
    made: MadeRun, pipeline: ParisPipeline, folder: Path, **changes: object
) -> None:
    job = made.job(folder / "clips.npy", **changes)
    result = generate(made.fetched(), job)
    output = call(pipeline, job)
    frames = np.load(folder / "clips.npy")
    assert frames.std() > 0
    assert np.array_equal(output.frames, frames)
    assert np.array_equal(output.experts, result.chosen.numpy())


@pytest.mark.parametrize(
    "changes",
    [
        {"prompts": PROMPTS[:1]},
        {"clips_per_prompt": 3, "rng_seed": 5},
        {"guidance": 1.0},
        {"top_k": 2},
        {"routing": "full"},
        {"routing": "threshold"},
        {"routing": "uniform"},
        {"negative_prompt": NEGATIVE, "routing": "full"},
        {"routing": "kept", "clips_per_prompt": 4},
        {"routing": "kept", "kept_until": 0.5, "clips_per_prompt": 2},
        {"routing": "text", "negative_prompt": NEGATIVE},
        {"guidance_interval": (0.3, 0.7), "routing": "full"},
    ],
    ids=str,
)
@pytest.mark.parametrize("form", FORMS)
def test_the_same_seed_gives_the_same_clip_through_both(made, pipeline, tmp_path, form, changes):
    assert_both_make_the_same(made, pipeline, tmp_path, guidance_form=form, **changes)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_gives_the_same_clip_through_both(made, pipeline, tmp_path, scheduler):
    assert_both_make_the_same(made, pipeline, tmp_path, scheduler=scheduler, steps=5, clips_per_prompt=2)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_in_batches_smaller_than_the_clips_both_stay_the_same(
    made, pipeline, tmp_path, monkeypatch, scheduler
):
    monkeypatch.setattr(routed, "MAX_BATCH_TOKENS", 2 * 3 * 2 * 3)
    changes = {"clips_per_prompt": 3, "scheduler": scheduler, "steps": 4, "routing": "full"}
    assert_both_make_the_same(made, pipeline, tmp_path, **changes)


def test_from_an_image_both_make_the_same_clip(tmp_path):
    made = MadeRun(tmp_path / "run", features=save_network(tmp_path / "network", 16), first_frame_rate=0.5)
    export(made.fetched(), tmp_path / "model")
    pipeline, image = loaded(tmp_path / "model"), random_picture(tmp_path / "first.png")
    for changes in ({"image": image}, {"image": image, "negative_prompt": NEGATIVE}, {}):
        assert_both_make_the_same(made, pipeline, tmp_path, routing="full", clips_per_prompt=2, **changes)


@pytest.mark.parametrize(
    "made_of", [{"preset": "mmdit-nano"}, {"ddpm_experts": (0, 2)}, {"time_shift": 3.0}], ids=str
)
def test_whatever_the_experts_are_both_make_the_same_clip(tmp_path, made_of):
    made = MadeRun(tmp_path / "run", **made_of)
    export(made.fetched(), tmp_path / "model")
    pipeline = loaded(tmp_path / "model")
    for negative in ("", NEGATIVE):
        assert_both_make_the_same(made, pipeline, tmp_path, negative_prompt=negative, top_k=2)


def test_a_clips_number_does_not_depend_on_how_many_clips_there_are():
    few, many = clip_numbers(range(2), 1), clip_numbers(range(6), 3)
    assert [many[0], many[3]] == few
    assert len(set(many)) == 6
    draws = [torch.randn(2, generator=each).tolist() for each in step_generators(0, many)]
    assert draws[0] == torch.randn(2, generator=step_generators(0, few)[0]).tolist()
    assert len({tuple(draw) for draw in draws}) == 6


def test_stochastic_steps_add_noise_of_the_clips_number_alone(made, tmp_path):
    def frames(name: str, **changes: object) -> np.ndarray:
        generate(made.fetched(), made.job(tmp_path / name, scheduler="dpm++sde", steps=4, **changes))
        return np.load(tmp_path / name).astype(int)

    one, three = frames("one.npy", prompts=PROMPTS[:1]), frames("three.npy", clips_per_prompt=3)
    assert (np.abs(three[0] - one[0]) <= 2).mean() > 0.99
    assert (np.abs(three[1] - one[0]) > 2).mean() > 0.1


def test_a_negative_prompt_changes_the_clip_and_none_or_an_empty_one_is_no_text(made, pipeline):
    def frames(negative: object, form: str) -> np.ndarray:
        given = {"num_inference_steps": 2, "rng_seed": 1, "output_type": "uint8", "guidance_form": form}
        return pipeline(list(PROMPTS), negative, **given, routing="full").frames.astype(int)

    for form in FORMS:
        nothing = frames(None, form)
        assert np.array_equal(frames("", form), nothing)
        assert np.array_equal(frames(["", ""], form), nothing)
        some = frames([NEGATIVE, ""], form)
        assert (np.abs(some[0] - nothing[0]) > 2).mean() > 0.1
        assert (np.abs(some[1] - nothing[1]) <= 2).mean() > 0.98


def test_latents_that_are_not_finite_are_told_with_the_guidance(pipeline):
    def blow_up(self, step, t, tensors):
        return {"latents": tensors["latents"] * torch.inf}

    with pytest.raises(DataError, match="guidance 7 gave values that are not finite; use a lower one"):
        pipeline(PROMPTS[0], num_inference_steps=1, guidance_scale=7.0, callback_on_step_end=blow_up)


def test_an_unknown_scheduler_names_the_known_ones(made, tmp_path):
    with pytest.raises(UsageError, match=r"no scheduler is called 'fast'; choose one of euler, heun, unipc"):
        generate(made.fetched(), made.job(tmp_path / "x.npy", scheduler="fast"))
    assert list(tmp_path.iterdir()) == []


def test_the_file_tells_its_scheduler_and_negative_prompt(made, tmp_path):
    job = made.job(tmp_path / "clip.gif", prompts=PROMPTS[:1], scheduler="unipc", negative_prompt=NEGATIVE)
    generate(made.fetched(), job)
    with Image.open(tmp_path / "clip.gif") as image:
        comment = image.info["comment"].decode()
    assert '"sampler": "unipc"' in comment
    assert f'"negative_prompt": "{NEGATIVE}"' in comment
