"""Clips that keep the expert that was drawn for them: by the command line, the pipeline, evaluations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from paris_p2p.device import pick_device
from paris_p2p.errors import UsageError
from paris_p2p.evaluation.opened_model import open_model
from paris_p2p.evaluation.options import EvaluateOptions
from paris_p2p.flow.mixture import Routing
from paris_p2p.generation.export import export
from paris_p2p.generation.generate import GenerateResult, generate
from paris_p2p.generation.pipeline import ParisPipeline
from paris_p2p.generation.routed import Chooser, clip_noise, clip_uniforms
from paris_p2p.model.router import Router
from tests.generation.exported import loaded, random_picture
from tests.made.made_run import EXPERTS, PROMPTS, MadeRun
from tests.runs.test_first_feature import save_network

MANY = 12  # clips a prompt: enough for each expert to be drawn


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    return MadeRun(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def pipeline(made: MadeRun, tmp_path_factory: pytest.TempPathFactory) -> ParisPipeline:
    folder = tmp_path_factory.mktemp("exported") / "model"
    export(made.fetched(), folder)
    return loaded(folder)


def made_clips(made: MadeRun, out: Path, **changes: object) -> tuple[np.ndarray, GenerateResult]:
    result = generate(made.fetched(), made.job(out, **{"routing": "kept", "steps": 2} | changes))
    return np.load(out), result


def kept_experts(chosen: Tensor) -> list[int]:
    """Returns the expert of each clip, which is one and the same at each step."""
    assert torch.equal(chosen, chosen[:, :1].expand_as(chosen))
    assert bool(chosen.amax(2).eq(1).all())
    return chosen[:, 0].argmax(1).tolist()


def test_each_clip_keeps_one_expert_and_many_clips_have_several(made, tmp_path):
    _, result = made_clips(made, tmp_path / "x.npy", clips_per_prompt=MANY)
    assert set(kept_experts(result.chosen)) == set(range(EXPERTS))
    assert "1-2: expert-" in result.describe()


def test_the_same_seed_draws_the_same_expert_alone_and_in_any_batch(made, tmp_path):
    _, many = made_clips(made, tmp_path / "many.npy", clips_per_prompt=MANY, batch_clips=5)
    _, few = made_clips(made, tmp_path / "few.npy", clips_per_prompt=MANY, batch_clips=1)
    assert kept_experts(many.chosen) == kept_experts(few.chosen)
    _, alone = made_clips(made, tmp_path / "alone.npy", prompts=PROMPTS[:1])
    assert kept_experts(alone.chosen) == kept_experts(many.chosen)[:1]
    _, other = made_clips(made, tmp_path / "other.npy", clips_per_prompt=MANY, rng_seed=1)
    assert kept_experts(other.chosen) != kept_experts(many.chosen)


def test_a_clip_has_the_noise_that_it_has_without_a_draw(made, tmp_path):
    """So the clip is the one that its expert makes alone, byte for byte."""
    frames, result = made_clips(made, tmp_path / "kept.npy", prompts=PROMPTS[:1])
    (expert,) = kept_experts(result.chosen)
    changes = {"prompts": PROMPTS[:1], "routing": "single", "expert": expert}
    single, _ = made_clips(made, tmp_path / "single.npy", **changes)
    assert np.array_equal(frames, single)


def test_the_numbers_that_draw_are_in_reach_spread_and_apart_from_the_noise():
    numbers = clip_uniforms(3, range(2000))
    assert bool(((numbers > 0) & (numbers < 1)).all())
    assert abs(float(numbers.mean()) - 0.5) < 4 / np.sqrt(12 * 2000)
    assert torch.equal(numbers[[7]], clip_uniforms(3, [7]))
    noise = clip_noise(3, range(2000), (1,))[:, 0].double()
    assert abs(float(torch.corrcoef(torch.stack([noise, numbers]))[0, 1])) < 4 / np.sqrt(2000)


def test_later_all_experts_go_on_by_their_posterior(made, tmp_path):
    _, result = made_clips(made, tmp_path / "x.npy", steps=4, kept_until=0.5)  # at t = 1, 0.75, 0.5, 0.25
    kept_experts(result.chosen[:, :2])
    assert bool((result.chosen[:, 2:] > 0).all())


def test_the_exact_form_asks_all_experts_without_the_text(made, tmp_path):
    changes = {"prompts": PROMPTS[:1], "guidance": 3.0}
    frames = {
        form: made_clips(made, tmp_path / f"{form}.npy", guidance_form=form, **changes)[0].astype(int)
        for form in ("per_expert", "exact")
    }
    assert (np.abs(frames["exact"] - frames["per_expert"]) > 2).mean() > 0.1


def test_of_the_experts_that_are_there_one_is_drawn(made, tmp_path):
    weights = {slot: path for slot, path in made.weights.items() if slot != "expert-1"}
    job = made.job(tmp_path / "x.npy", routing="kept", clips_per_prompt=MANY, steps=1, allow_partial=True)
    assert set(kept_experts(generate(made.fetched(weights=weights), job).chosen)) == {0, 2}


def test_without_its_router_a_run_draws_nobody(made, tmp_path):
    weights = {slot: path for slot, path in made.weights.items() if slot != "router"}
    for routing in ("kept", "text"):
        with pytest.raises(UsageError, match=f"routing {routing} asks the router which of 3 experts"):
            generate(
                made.fetched(weights=weights),
                made.job(tmp_path / "x.npy", routing=routing, allow_partial=True),
            )


def test_the_text_alone_gives_all_clips_of_a_prompt_the_same_expert(made, tmp_path):
    _, result = made_clips(made, tmp_path / "x.npy", routing="text", clips_per_prompt=4)
    experts = kept_experts(result.chosen)
    assert experts == [experts[0]] * 4 + [experts[4]] * 4


def test_an_evaluation_draws_as_generate_does(made, tmp_path):
    options = EvaluateOptions(routing="kept", steps=2, device="cpu", rng_seed=5)
    model = open_model(made.fetched(), options, pick_device("cpu"))
    arrays = model.make(list(PROMPTS), 5, options)
    frames, result = made_clips(made, tmp_path / "x.npy", rng_seed=5)
    assert np.array_equal(arrays["chosen"], result.chosen.numpy())
    assert np.array_equal(arrays["frames"], frames)


def test_a_pipeline_draws_by_the_noise_that_a_generator_gave(pipeline):
    """Another clip beside it changes nothing, and the same noise draws the same."""

    def called(prompts: list[str], seeds: list[int], **given: object) -> list[int]:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise = {} if given else {"generator": generators}
        output = pipeline(
            prompts, num_inference_steps=2, output_type="latent", routing="kept", **noise, **given
        )
        return kept_experts(torch.from_numpy(output.experts))

    seeds = list(range(MANY))
    many = called([PROMPTS[0]] * MANY, seeds)
    assert len(set(many)) > 1
    assert [called(PROMPTS[:1], [seed])[0] for seed in seeds[:3]] == many[:3]
    drawn = [torch.randn(1, 4, 3, 4, 6, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    assert called([PROMPTS[0]] * MANY, [], latents=torch.cat(drawn)) == many


def test_a_pipeline_keeps_its_own_routing_in_its_folder(pipeline, made, tmp_path):
    assert "routing" not in json.loads(pipeline.to_json_string())
    own = loaded(pipeline.folder, routing="kept", kept_until=0.5)
    own.save_pretrained(tmp_path / "model")
    again = loaded(tmp_path / "model")
    asked = {"num_inference_steps": 4, "rng_seed": 2, "output_type": "uint8"}
    wanted = pipeline(PROMPTS[0], routing="kept", kept_until=0.5, **asked)
    assert np.array_equal(again(PROMPTS[0], **asked).frames, wanted.frames)
    assert np.array_equal(
        again(PROMPTS[0], routing="top_k", **asked).frames, pipeline(PROMPTS[0], **asked).frames
    )
    whole = again(PROMPTS[0], kept_until=0.0, **asked)
    kept_experts(torch.from_numpy(whole.experts))


@pytest.mark.parametrize(
    "saved", [{"routing": "oracle"}, {"routing": "kept", "kept_until": 1.0}, {"kept_until": 0.5}], ids=str
)
def test_a_folder_with_a_routing_that_no_prompt_can_have_is_refused(pipeline, saved):
    with pytest.raises(UsageError):
        loaded(pipeline.folder, **saved)


def test_the_file_tells_what_is_kept_and_when_it_is_guided_where_it_was_asked_for(made, tmp_path):
    def comment(**changes: object) -> str:
        job = made.job(tmp_path / "clip.gif", prompts=PROMPTS[:1], steps=1, **changes)
        generate(made.fetched(), job)
        with Image.open(tmp_path / "clip.gif") as image:
            return image.info["comment"].decode()

    plain = comment()
    assert "kept_until" not in plain
    assert "guidance_interval" not in plain
    told = comment(routing="kept", kept_until=0.6, guidance_interval=(0.2, 0.8))
    assert '"kept_until": 0.6' in told
    assert '"guidance_interval": [0.2, 0.8]' in told


class PictureRouter(Router):
    """Notes what it was asked with."""

    def __init__(self) -> None:
        widths = {"pooled_width": 16, "width": 16, "first_width": 16}
        super().__init__(channels=4, experts=EXPERTS, depth=1, heads=1, **widths)
        self.asked: list[tuple[bool, ...]] = []

    def forward(
        self, x_t: Tensor | None, t: Tensor | None, pooled: Tensor | None, first: Tensor | None = None
    ) -> Tensor:
        self.asked.append(tuple(value is not None for value in (x_t, t, pooled, first)))
        return super().forward(x_t, t, pooled, first)


def test_the_draw_asks_once_with_caption_and_picture_and_without_the_noise():
    router, x = PictureRouter(), torch.randn(2, 4, 3, 4, 6)
    chooser = Chooser(
        router, EXPERTS, range(EXPERTS), Routing("kept", kept_until=0.5), torch.tensor([0.1, 0.9])
    )
    known = torch.randn(2, 16), torch.randn(2, 16)
    for time in (1.0, 0.75):
        chooser(x, torch.full((2,), time), *known)
    assert router.asked == [(False, False, True, True)]
    chooser(x, torch.full((2,), 0.5), *known)
    assert router.asked[1:] == [(True, True, True, True)]


def test_a_picture_takes_part_in_the_draw(tmp_path):
    made = MadeRun(tmp_path / "run", features=save_network(tmp_path / "network", 16), first_frame_rate=0.5)
    image = random_picture(tmp_path / "first.png")
    changes = {"routing": "kept", "steps": 1, "clips_per_prompt": MANY}
    with_picture = generate(made.fetched(), made.job(tmp_path / "a.npy", image=image, **changes))
    without = generate(made.fetched(), made.job(tmp_path / "b.npy", **changes))
    assert kept_experts(with_picture.chosen) != kept_experts(without.chosen)
