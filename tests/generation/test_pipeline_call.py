"""ParisPipeline is called as diffusers' WanPipeline is."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
)
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils.torch_utils import randn_tensor

from paris_p2p.device import pick_device
from paris_p2p.errors import DeviceError, UsageError
from paris_p2p.flow.mixture import Routing
from paris_p2p.generation.export import export
from paris_p2p.generation.pipeline import ParisPipeline
from paris_p2p.generation.routed import ExpertSeats
from tests.generation.exported import loaded, random_picture
from tests.made.made_run import EXPERTS, LATENT, PROMPTS, MadeRun

ROW = "a red ball"
SHAPE = LATENT.shape
LEFT_OUT = {"guidance_scale_2", "attention_kwargs", "max_sequence_length"}  # docs/pipeline.md says why


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = MadeRun(tmp_path_factory.mktemp("made"))
    out = tmp_path_factory.mktemp("exported") / "model"
    export(made.fetched(), out)
    return out


@pytest.fixture
def pipe(folder: Path) -> ParisPipeline:
    return loaded(folder)


def frames(pipe: ParisPipeline, *prompts: object, **given: object) -> np.ndarray:
    options = {"num_inference_steps": 2, "rng_seed": 0, "output_type": "uint8", **given}
    return np.asarray(pipe(*(prompts or (ROW,)), **options).frames)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_it_takes_wan_pipelines_arguments_in_their_order():
    theirs = [name for name in inspect.signature(WanPipeline.__call__).parameters if name not in LEFT_OUT]
    ours = list(inspect.signature(ParisPipeline.__call__).parameters)
    assert ours[: len(theirs)] == theirs
    assert ParisPipeline._callback_tensor_inputs == WanPipeline._callback_tensor_inputs
    for name in ("num_videos_per_prompt", "num_inference_steps", "output_type", "return_dict"):
        default = inspect.signature(WanPipeline.__call__).parameters[name].default
        assert inspect.signature(ParisPipeline.__call__).parameters[name].default == default


@pytest.mark.parametrize(("prompts", "copies"), [(ROW, 1), (list(PROMPTS), 1), (list(PROMPTS), 3)])
def test_each_prompt_makes_so_many_clips_prompt_by_prompt(pipe, prompts, copies):
    clips = len(prompts) * copies if isinstance(prompts, list) else copies
    output = pipe(prompts, num_inference_steps=2, num_videos_per_prompt=copies)
    assert output.frames.shape == (clips, 3, 16, 24, 3)
    assert output.experts.shape == (clips, 2, EXPERTS)
    assert output.times.tolist() == [1.0, 0.5]


def test_sizes_are_only_checked(pipe):
    expected = frames(pipe)
    assert np.array_equal(frames(pipe, height=16, width=24, num_frames=3), expected)
    for wrong in ({"height": 480}, {"width": 832}, {"num_frames": 81}):
        with pytest.raises(UsageError, match="the run makes clips of 3 frames of 16x24"):
            frames(pipe, **wrong)


def test_a_generator_draws_the_noise_as_diffusers_draws_it(pipe):
    noise = randn_tensor((2, *SHAPE), generator=seeded(1), dtype=torch.float32)
    drawn = frames(pipe, list(PROMPTS), rng_seed=None, generator=seeded(1))
    assert np.array_equal(drawn, frames(pipe, list(PROMPTS), rng_seed=None, latents=noise))
    generator = seeded(1)
    first, second = (frames(pipe, rng_seed=None, generator=generator) for _ in range(2))
    assert not np.array_equal(first, second)


def test_with_a_generator_for_each_a_clip_depends_on_its_own_alone(pipe):
    both = pipe(
        list(PROMPTS), num_inference_steps=2, generator=[seeded(1), seeded(2)], output_type="latent"
    ).frames
    alone = pipe(PROMPTS[1], num_inference_steps=2, generator=[seeded(2)], output_type="latent").frames
    torch.testing.assert_close(both[1:], alone, rtol=1e-2, atol=1e-2)
    with pytest.raises(UsageError, match="1 generators for 2 clips"):
        pipe(list(PROMPTS), generator=[seeded(1)])


def test_without_any_seed_each_call_makes_another_clip_that_torchs_seed_decides(pipe):
    torch.manual_seed(3)
    first, second = (frames(pipe, rng_seed=None) for _ in range(2))
    torch.manual_seed(3)
    assert np.array_equal(frames(pipe, rng_seed=None), first)
    assert not np.array_equal(first, second)


def test_a_seed_and_a_generator_together_or_a_negative_seed_are_refused(pipe):
    for wrong in ({"generator": seeded(0)}, {"rng_seed": -1}):
        with pytest.raises(UsageError, match="give a whole number from 0 on, or a generator and not both"):
            frames(pipe, **wrong)


def test_latents_of_another_shape_are_refused(pipe):
    with pytest.raises(UsageError, match=r"latents are \(1, 4, 3, 2, 2\), the clips need \(1, 4, 3, 4, 6\)"):
        frames(pipe, latents=torch.zeros(1, 4, 3, 2, 2))


def test_embeddings_stand_for_their_prompts(pipe):
    expected = frames(pipe, list(PROMPTS), "rolls", routing="full")
    embeds = pipe.encode_prompt(list(PROMPTS), "rolls")
    assert embeds.prompt_embeds.shape == (2, 6, 16)
    assert np.array_equal(frames(pipe, None, routing="full", **embeds._asdict()), expected)
    unmasked = embeds._asdict() | {"prompt_attention_mask": None, "negative_prompt_attention_mask": None}
    assert np.array_equal(frames(pipe, None, routing="full", **unmasked), expected)
    assert pipe.encode_prompt(ROW).negative_prompt_embeds is None


def test_what_is_given_twice_or_not_at_all_is_refused(pipe):
    embeds = pipe.encode_prompt(ROW, "rolls")
    with pytest.raises(UsageError, match="both prompt and prompt_embeds"):
        frames(pipe, ROW, prompt_embeds=embeds.prompt_embeds)
    with pytest.raises(UsageError, match="both negative_prompt and negative_prompt_embeds"):
        frames(pipe, ROW, "rolls", negative_prompt_embeds=embeds.negative_prompt_embeds)
    with pytest.raises(UsageError, match="neither prompt nor prompt_embeds"):
        frames(pipe, None)
    with pytest.raises(UsageError, match=r"pooled_prompt_embeds is a NoneType, .* encode_prompt makes all"):
        frames(pipe, None, prompt_embeds=embeds.prompt_embeds)
    for alone in ({"pooled_prompt_embeds": torch.zeros(1, 16)}, {"prompt_attention_mask": torch.ones(1, 6)}):
        with pytest.raises(UsageError, match="is given without prompt_embeds"):
            frames(pipe, ROW, **alone)
    with pytest.raises(UsageError, match="a prompt is 3, a int; give words"):
        frames(pipe, [ROW, 3])
    with pytest.raises(UsageError, match="1 negative prompts for 2 prompts"):
        frames(pipe, list(PROMPTS), ["rolls"])
    other = {name: value for name, value in embeds._asdict().items() if name.startswith("negative")}
    with pytest.raises(UsageError, match="1 rows of negative_prompt_embeds for 2 prompts"):
        frames(pipe, list(PROMPTS), **other)


NAN = float("nan")
LATENTS = torch.zeros(1, 4, 3, 4, 6)
MISUSED = [
    ({"prompt": 5}, "a prompt is 5, a int"),
    ({"negative_prompt": 3}, "a prompt is 3, a int"),
    ({"latents": LATENTS.numpy()}, "latents are a ndarray"),
    ({"latents": LATENTS * NAN}, "latents have values that are not finite"),
    ({"generator": 3}, "a generator is a int"),
    ({"generator": [3]}, "a generator is a int"),
    ({"num_inference_steps": 2.5}, "num_inference_steps is 2.5; give a whole number of at most 1,000"),
    ({"num_inference_steps": 10**12}, "num_inference_steps is 1000000000000"),
    ({"num_videos_per_prompt": 10**12}, "num_videos_per_prompt is 1000000000000"),
    ({"guidance_scale": NAN}, "guidance_scale is nan; give a finite number"),
    ({"guidance_scale": None}, "guidance_scale is None"),
    ({"rng_seed": "0"}, "give a whole number from 0 on"),
    ({"top_k": 1.5}, "top-k must be 1 or more"),
    ({"callback_on_step_end": lambda *_: {"latents": torch.zeros(3)}}, r"gave latents back as \(3,\)"),
    ({"callback_on_step_end": lambda *_: {"prompt_embeds": 3}}, "gave prompt_embeds back as a int"),
]


@pytest.mark.parametrize(("misused", "says"), MISUSED, ids=[says[:30] for _, says in MISUSED])
def test_a_value_that_is_none_of_its_kind_is_named(pipe, misused, says):
    with pytest.raises(UsageError, match=says):
        pipe(**{"prompt": ROW, "num_inference_steps": 2, **misused})


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("prompt_embeds", torch.zeros(6, 16)),
        ("prompt_embeds", torch.zeros(1, 6, 17)),
        ("prompt_embeds", torch.zeros(1, 9, 16)),
        ("prompt_embeds", torch.full((1, 6, 16), NAN)),
        ("negative_prompt_embeds", torch.zeros(1, 4, 16)),
        ("pooled_prompt_embeds", torch.zeros(1, 15)),
        ("pooled_prompt_embeds", torch.zeros(1, 6, 16)),
        ("prompt_attention_mask", torch.ones(2, 6)),
    ],
)
def test_an_embedding_of_another_shape_is_named(pipe, name, tensor):
    embeds = pipe.encode_prompt(ROW, "rolls")._asdict() | {name: tensor}
    with pytest.raises(UsageError, match=f"^{name} (is|has) .*encode"):
        frames(pipe, None, **embeds)


@pytest.mark.parametrize(("prompts", "steps", "copies"), [([], 2, 1), (ROW, 0, 1), (ROW, 2, 0)])
def test_an_empty_request_says_so(pipe, prompts, steps, copies):
    with pytest.raises(UsageError, match="nothing to make"):
        pipe(prompts, num_inference_steps=steps, num_videos_per_prompt=copies)


def test_every_output_type_is_the_same_clip(pipe):
    exact = frames(pipe)
    made = {
        kind: pipe(ROW, num_inference_steps=2, rng_seed=0, output_type=kind).frames
        for kind in ("np", "pt", "pil", "latent")
    }
    assert made["np"].dtype == np.float32
    assert np.array_equal((made["np"] * 255).round().astype(np.uint8), exact)
    assert made["pt"].shape == (1, 3, 3, 16, 24)
    assert torch.equal(made["pt"], torch.from_numpy(made["np"]).permute(0, 1, 4, 2, 3))
    assert np.array_equal(np.stack([np.asarray(picture) for picture in made["pil"][0]]), exact[0])
    assert made["latent"].shape == (1, *SHAPE)
    codec = pipe._frozen.codec(pick_device("cpu"))
    assert np.array_equal(codec.decode(made["latent"]).numpy(), exact)
    with pytest.raises(UsageError, match="output_type 'gif' is none of np, pt, pil, uint8, latent"):
        frames(pipe, output_type="gif")


def test_without_return_dict_the_frames_come_in_a_tuple(pipe):
    (alone,) = pipe(ROW, num_inference_steps=2, rng_seed=0, output_type="uint8", return_dict=False)
    assert np.array_equal(alone, frames(pipe))


def test_a_callback_hears_each_step_and_what_it_gives_back_counts(pipe):
    heard = []

    def stay(self, step: int, t: torch.Tensor, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        heard.append((self is pipe, step, float(t), sorted(tensors)))
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 1 else {}

    names = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    given = {"callback_on_step_end": stay, "callback_on_step_end_tensor_inputs": names}
    output = pipe(list(PROMPTS), "rolls", num_inference_steps=2, output_type="latent", **given)
    assert heard == [(True, 0, 1000.0, sorted(names)), (True, 1, 500.0, sorted(names))]
    assert not output.frames.any()
    assert pipe.num_timesteps == 2
    assert pipe.current_timestep is None
    with pytest.raises(UsageError, match="names \\['noise'\\]"):
        frames(pipe, callback_on_step_end=stay, callback_on_step_end_tensor_inputs=["noise"])


def test_a_callback_changes_the_text_and_the_guidance_and_stops_the_call(pipe):
    other = pipe.encode_prompt("rolls").prompt_embeds

    def changed(self, step, t, tensors):
        return {"prompt_embeds": other, "negative_prompt_embeds": tensors["negative_prompt_embeds"]}

    def unguided(self, step, t, tensors):
        assert self.do_classifier_free_guidance is (step == 0)
        self._guidance_scale = 1.0
        return {}

    def stop(self, step, t, tensors):
        self._interrupt = True

    plain = frames(pipe, ROW, "red")
    text = ["prompt_embeds", "negative_prompt_embeds"]
    given = {"callback_on_step_end": changed, "callback_on_step_end_tensor_inputs": text}
    assert not np.array_equal(frames(pipe, ROW, "red", **given), plain)
    with_pool = counted(pipe)
    assert not np.array_equal(frames(pipe, ROW, "red", callback_on_step_end=unguided), plain)
    assert with_pool == [2, 1]  # rows: guided, and then not
    output = pipe(ROW, num_inference_steps=4, callback_on_step_end=stop)
    assert output.experts.shape == (1, 1, EXPERTS)
    assert output.times.tolist() == [1.0]
    assert frames(pipe, ROW, "red").shape == plain.shape  # the next call is not stopped


def counted(pipe: ParisPipeline) -> list[int]:
    """Counts the rows that experts are asked for, from now on."""
    rows: list[int] = []
    original = pipe._engine

    def engine(*arguments: object) -> object:
        made = original(*arguments)
        velocity = made.mixture.pool.velocity
        made.mixture.pool.velocity = lambda k, x, *rest: rows.append(len(x)) or velocity(k, x, *rest)
        return made

    pipe._engine = engine
    return rows


def test_diffusers_own_callback_classes_work(pipe):
    class Halve(PipelineCallback):
        @property
        def tensor_inputs(self) -> list[str]:
            return ["latents"]

        def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):
            return {"latents": callback_kwargs["latents"] / 2}

    def final(callback) -> torch.Tensor:
        return pipe(
            ROW, num_inference_steps=1, rng_seed=0, output_type="latent", callback_on_step_end=callback
        ).frames

    whole = final(None)
    torch.testing.assert_close(final(Halve(None, 0)), whole / 2)
    both = MultiPipelineCallbacks([Halve(None, 0), Halve(None, 0)])
    torch.testing.assert_close(final(both), whole / 4)


def test_with_more_clips_than_a_batch_a_callback_hears_each_step_once_with_all_clips(pipe, monkeypatch):
    monkeypatch.setattr("paris_p2p.generation.routed.MAX_BATCH_TOKENS", 1)
    heard = []

    def count(self, step, t, tensors):
        heard.append((step, len(tensors["latents"])))

    frames(pipe, list(PROMPTS), num_videos_per_prompt=2, callback_on_step_end=count)
    assert heard == [(0, 4), (1, 4)]


def test_an_image_starts_every_clip_or_each_its_own(tmp_path):
    made = MadeRun(tmp_path / "run", first_frame_rate=0.5)
    export(made.fetched(), tmp_path / "model")
    pipe, image = loaded(tmp_path / "model"), random_picture(tmp_path / "a.png")
    one = frames(pipe, list(PROMPTS), image=image)
    assert np.array_equal(frames(pipe, list(PROMPTS), image=[image, image]), one)
    assert not np.array_equal(frames(pipe, list(PROMPTS)), one)
    with pytest.raises(UsageError, match="3 images for 2 prompts"):
        frames(pipe, list(PROMPTS), image=[image] * 3)


SCHEDULERS = [
    FlowMatchEulerDiscreteScheduler(shift=2.0),
    FlowMatchHeunDiscreteScheduler(shift=2.0),
    UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=2.0),
    DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=2.0),
    FlowMatchEulerDiscreteScheduler(shift=2.0, use_karras_sigmas=True),
    FlowMatchEulerDiscreteScheduler(stochastic_sampling=True),
]


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda each: type(each).__name__)
def test_the_scheduler_can_be_replaced_and_is_saved_with_the_pipeline(pipe, tmp_path, scheduler):
    before = frames(pipe, num_inference_steps=4)
    pipe.scheduler = scheduler
    after = frames(pipe, num_inference_steps=4)
    assert not np.array_equal(after, before)
    pipe.save_pretrained(tmp_path / "model")
    again = loaded(tmp_path / "model")
    assert type(again.scheduler) is type(scheduler)
    assert np.array_equal(frames(again, num_inference_steps=4), after)


def test_with_many_steps_every_scheduler_lands_in_the_same_place(pipe):
    def latents(scheduler) -> torch.Tensor:
        pipe.scheduler = scheduler
        return pipe(
            ROW,
            num_inference_steps=60,
            rng_seed=0,
            guidance_scale=1.0,
            routing="uniform",
            output_type="latent",
        ).frames

    exact, *others = (latents(scheduler) for scheduler in SCHEDULERS[1:4])
    for other in others:
        assert float((other - exact).norm() / exact.norm()) < 0.1


def test_a_scheduler_that_is_not_for_flows_says_how_it_is_made(pipe):
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(
        UsageError, match=r"UniPCMultistepScheduler\.from_config\(pipe\.scheduler\.config, use_flow"
    ):
        frames(pipe)
    options = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config, **options)
    assert frames(pipe).any()
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    with pytest.raises(UsageError, match="without use_dynamic_shifting"):
        frames(pipe)


def test_the_progress_bar_is_the_pipelines_own(pipe, capfd):
    frames(pipe)
    assert capfd.readouterr().err == ""
    pipe.set_progress_bar_config(desc="Denoising", disable=False)
    frames(pipe, num_inference_steps=3)
    assert "Denoising: 100%" in capfd.readouterr().err


def test_a_routing_of_ones_own_is_taken_as_it_is(pipe):
    output = pipe(ROW, num_inference_steps=2, routing=Routing("single", expert=1))
    assert output.experts[..., 1].all()


def test_in_another_type_experts_compute_in_it_and_the_router_stays(folder, monkeypatch):
    seen = []
    velocity = ExpertSeats.velocity
    monkeypatch.setattr(
        ExpertSeats, "velocity", lambda self, *given: seen.append(self.dtype) or velocity(self, *given)
    )
    narrow, wide = loaded(folder), loaded(folder, torch_dtype=torch.float32)
    assert (narrow.dtype, narrow.router.dtype) == (torch.bfloat16, torch.float32)
    assert (wide.dtype, wide.router.dtype) == (torch.float32, torch.float32)
    stored = narrow.router.state_dict()
    exact = frames(wide)
    assert set(seen) == {torch.float32}
    assert np.array_equal(frames(narrow.to(torch.float32)), exact)
    narrow.to(torch.bfloat16)
    assert narrow.dtype == torch.bfloat16
    assert all(torch.equal(tensor, stored[name]) for name, tensor in narrow.router.state_dict().items())


def test_experts_that_take_turns_make_the_same_clips_and_moving_ends_that(pipe):
    expected = frames(pipe, list(PROMPTS), routing="full")
    for offload, lets_go in (
        (lambda: pipe.enable_model_cpu_offload(device="cpu"), True),
        (lambda: pipe.enable_sequential_cpu_offload(device="cpu"), True),
        (lambda: pipe.enable_expert_offload("cpu", seats=2), False),
    ):
        offload()
        assert np.array_equal(frames(pipe, list(PROMPTS), routing="full"), expected)
        assert (not pipe._frozen._held) is lets_go  # text encoder and codec
    pipe.to("cpu")
    assert np.array_equal(frames(pipe, list(PROMPTS), routing="full"), expected)
    assert pipe._frozen._held
    pipe.enable_expert_offload("cpu")
    pipe.remove_all_hooks()
    frames(pipe)
    assert pipe._frozen._held


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_offloading_without_a_gpu_is_refused(pipe):
    for offload in (pipe.enable_model_cpu_offload, pipe.enable_sequential_cpu_offload):
        with pytest.raises(DeviceError, match="cuda:0 was asked for, 0 are here"):
            offload()
