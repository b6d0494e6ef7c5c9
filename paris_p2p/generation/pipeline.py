"""ParisPipeline: all experts of a run as a diffusers pipeline that is called as WanPipeline is.

    pipe = ParisPipeline.from_pretrained(folder)          what `paris-run export` wrote, or a hub id
    clip = pipe("a prompt", generator=torch.Generator().manual_seed(0)).frames[0]

The engine that `paris-peer generate` uses makes the clips (engine.py); this file gives it diffusers' names.
docs/pipeline.md says what is the same as there and what is ours. Legend: P prompts, B clips, C T' H' W'
latents, S steps. t = 1 is noise.
"""

# Annotations stay objects here, not strings: diffusers reads the constructor's to find its components.

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor

from paris_p2p.device import Device, pick_device
from paris_p2p.errors import UsageError
from paris_p2p.flow.condition import Condition
from paris_p2p.flow.guidance import EVERYWHERE, GuidedTimes
from paris_p2p.flow.mixture import Routing
from paris_p2p.generation import pipeline_inputs as inputs
from paris_p2p.generation.engine import Denoising, Engine, Mixture, clip_numbers
from paris_p2p.generation.first_picture import Picture, check_trained_for, opened_picture
from paris_p2p.generation.frozen import CODEC, FEATURES, TEXT, FrozenNetworks, Pin
from paris_p2p.generation.pipeline_call import Callback, CallState, Listener
from paris_p2p.generation.pipeline_config import check_components_fit, check_config
from paris_p2p.generation.pipeline_folder import FolderPipeline
from paris_p2p.generation.pipeline_inputs import Generators, ParisOutput, PromptEmbeds
from paris_p2p.generation.pipeline_noise import noise_of
from paris_p2p.generation.pipeline_seats import SeatedPipeline
from paris_p2p.generation.schedulers import Solver, plan, solver_of
from paris_p2p.generation.wishes import Wishes
from paris_p2p.model.experts import ExpertSet
from paris_p2p.model.router import Router
from paris_p2p.spec import ClipShape

log = logging.getLogger(__name__)
AnyImage = Image.Image | str | Path


class ParisPipeline(CallState, SeatedPipeline, FolderPipeline):
    """Experts, router and scheduler are components; codec and text encoder are named, pinned, and loaded
    when they are first needed.
    """

    _optional_components = ["router"]
    _callback_tensor_inputs = list(inputs.CALLBACK_TENSORS)

    def __init__(
        self,
        experts: ExpertSet,
        scheduler: FlowMatchEulerDiscreteScheduler,
        router: Router | None = None,
        latent_shape: list[int] | None = None,  # C, T, H, W
        fps: float = 8.0,
        run: str = "",
        codec_name: str = "pca",
        codec_revision: str = "",
        codec_sha256: str = "",
        text_name: str = "minilm",
        text_revision: str = "",
        text_sha256: str = "",
        text_tokens: int = 32,
        clip_shape: list[int] | None = None,  # T, H, W in pixels
        first_frame_rate: float = 0.0,  # of the training
        features_name: str = "",  # of the first frame, for the router
        features_revision: str = "",
        features_sha256: str = "",
        time_mean: float = 0.0,  # of the times it was trained at, before the scheduler's shift
        time_std: float = 1.0,
        run_name: str = "",
        data_id: str = "",  # of the prepared clips that the run was made of (own_data.py)
        trained: dict[str, dict[str, Any]] | None = None,  # slot -> card and counters (trained.py)
        routing: str = "top_k",  # of calls that name none
        kept_until: float = 0.0,  # of the routing `kept`
    ):
        super().__init__()
        config: dict[str, Any] = {
            "latent_shape": latent_shape or [1, 1, 1, 1], "fps": fps, "run": run,
            "text_tokens": text_tokens, "time_mean": time_mean, "time_std": time_std,
            "codec_name": codec_name, "codec_revision": codec_revision, "codec_sha256": codec_sha256,
            "text_name": text_name, "text_revision": text_revision, "text_sha256": text_sha256,
            "clip_shape": clip_shape or [], "first_frame_rate": first_frame_rate,
            "features_name": features_name, "features_revision": features_revision,
            "features_sha256": features_sha256, "run_name": run_name, "data_id": data_id,
            "trained": trained or {},
        }  # fmt: skip
        if routing != "top_k" or kept_until:  # a folder that says nothing of it is one of any version
            config |= {"routing": routing, "kept_until": kept_until}
        check_config(config)
        check_components_fit(experts, router, latent_shape)
        self.register_modules(experts=experts, scheduler=scheduler, router=router)
        self.register_to_config(**config)
        # that holds codec/ and text/; experts know it, whichever class's from_pretrained loads the pipeline
        source = experts.folder
        self.folder = source.parent if source and (source.parent / "model_index.json").is_file() else None
        self._frozen = self._named_frozen()

    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        device: torch.device | str | None = None,
    ) -> PromptEmbeds:
        """Returns a row for each prompt, under the names by which the pipeline takes them; a prompt whose end
        is not read is warned about.
        """
        where = pick_device(str(device)) if device is not None else self.computing_device()
        words = inputs.listed(prompt)
        other = inputs.negatives(negative_prompt, len(words))
        engine = self._engine(Wishes(Routing("uniform")), where)
        condition = self._read(engine, words)
        return PromptEmbeds.of(condition, None if other is None else self._read(engine, other))

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 4.0,
        num_videos_per_prompt: int = 1,
        generator: Generators = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        *,
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        image: AnyImage | Sequence[AnyImage] | None = None,
        rng_seed: int | None = None,
        guidance_form: str = "per_expert",
        routing: str | Routing | None = None,
        top_k: int = 1,
        kept_until: float | None = None,
        guidance_interval: GuidedTimes = EVERYWHERE,
        autoguide: SeatedPipeline | str | Path | None = None,
        autoguide_scale: float = 2.0,
    ) -> ParisOutput:
        """Makes clips, prompt by prompt, `num_videos_per_prompt` of each; UsageError and DataError.

        Names are diffusers'. `height`, `width` and `num_frames` are checked against the run's own. The noise
        is `latents`, or drawn by `generator` (one, or one for each clip), or what `rng_seed` draws in
        `paris-peer generate --seed`, or torch's own. `image` is the first frame, one for all or one for each
        prompt. `routing` (None: the pipeline's own), `top_k`, `kept_until`, `guidance_form` and
        `guidance_interval` are those of the command line. `autoguide` is an earlier export of the run, or
        the pipeline of one.
        """
        inputs.check_output_type(output_type)
        inputs.check_shape(self.config["clip_shape"], num_frames, height, width)
        inputs.check_either("prompt", prompt, prompt_embeds, needed=True)
        inputs.check_either("negative_prompt", negative_prompt, negative_prompt_embeds, needed=False)
        check_trained_for(self.config["first_frame_rate"], image=image is not None)
        how = self._routing(routing, top_k, kept_until)
        wishes = Wishes(how, guidance_form, guidance_interval, autoguide_scale)
        older = type(self).from_pretrained(autoguide) if isinstance(autoguide, str | Path) else autoguide
        engine = self._engine(wishes, self.computing_device(), older)
        embeds = PromptEmbeds(
            prompt_embeds,
            negative_prompt_embeds,
            pooled_prompt_embeds,
            negative_pooled_prompt_embeds,
            prompt_attention_mask,
            negative_prompt_attention_mask,
        )
        count = len(inputs.listed(prompt)) if prompt is not None else len(prompt_embeds)  # type: ignore[arg-type]
        inputs.check_request(count, num_videos_per_prompt, num_inference_steps, guidance_scale)
        condition, negative = self._conditions(engine, prompt, negative_prompt, embeds, count)
        if image is not None:
            condition = engine.with_picture(condition, self._picture(image, count), self._clip())
        if self._spares:
            self._frozen.let_go(FEATURES, engine.device)
        clips = range(count * num_videos_per_prompt)
        rows = torch.tensor([clip // num_videos_per_prompt for clip in clips], device=engine.device.torch)
        numbers = clip_numbers(clips, num_videos_per_prompt)
        given = latents, generator, rng_seed
        noise = noise_of(wishes.routing, numbers, engine.latent, engine.device.torch, given)
        away = None if negative is None else negative.pick(rows)
        state = Denoising(noise.latents, condition.pick(rows), guidance_scale, away, noise.uniforms)
        times = solver_of(self.scheduler, num_inference_steps).times
        listener = Listener(self, callback_on_step_end, callback_on_step_end_tensor_inputs, times)
        chosen = self._denoise(engine, state, num_inference_steps, noise.generators, listener)
        frames = (
            state.latents if output_type == "latent" else self._frames(engine, state.latents, output_type)
        )
        if not return_dict:
            return (frames,)  # type: ignore[return-value]  # as diffusers has it
        return ParisOutput(frames, chosen.numpy(), np.array(times[: chosen.shape[1]], dtype=np.float32))

    def _denoise(
        self,
        engine: Engine,
        state: Denoising,
        steps: int,
        generators: list[torch.Generator] | None,
        listener: Listener,
    ) -> Tensor:
        """Samples, heard by the listener, and returns the weights that were chosen: [B S K]."""

        def solver_for(rows: slice) -> Solver:
            return solver_of(self.scheduler, steps, None if generators is None else generators[rows])

        plan(self.scheduler, steps)
        listener.begin(state.guidance)
        try:
            return engine.denoise(state, solver_for, listener.on_step)
        finally:
            listener.end()

    def _frames(self, engine: Engine, latents: Tensor, output_type: str) -> Any:
        pixels = engine.decode(latents)
        if self._spares:
            self._frozen.let_go(CODEC, engine.device)
        return inputs.OUTPUT_TYPES[output_type](pixels)

    def _conditions(
        self,
        engine: Engine,
        prompt: str | Sequence[str] | None,
        negative_prompt: str | Sequence[str] | None,
        embeds: PromptEmbeds,
        count: int,
    ) -> tuple[Condition, Condition | None]:
        """Returns what is known of each prompt, and of each negative prompt where there are some."""
        device, others = engine.device.torch, inputs.negatives(negative_prompt, count)
        sizes = inputs.TextSizes.of(self.experts, self.router, self.config["text_tokens"])
        condition, negative = embeds.condition(sizes, device), embeds.negative(sizes, device)
        if condition is None:
            condition = self._read(engine, inputs.listed(prompt or ""))
        if negative is None and others is not None:
            negative = self._read(engine, others)
        if negative is not None and len(negative.mask) != count:
            raise UsageError(
                f"{len(negative.mask)} rows of negative_prompt_embeds for {count} prompts: give one each"
            )
        if self._spares:
            self._frozen.let_go(TEXT, engine.device)
        return condition, negative

    def _read(self, engine: Engine, words: list[str]) -> Condition:
        condition, cut = engine.encode(words)
        for note in cut:
            log.warning("%s", note)
        return condition

    def _picture(self, image: AnyImage | Sequence[AnyImage], count: int) -> Picture:
        images = [image] if isinstance(image, AnyImage) else list(image)
        if len(images) not in (1, count):
            raise UsageError(f"{len(images)} images for {count} prompts: give one for all, or one for each")
        return Picture(torch.cat([opened_picture(each, self._clip()).pixels for each in images]))

    def _clip(self) -> ClipShape:
        frames, height, width = self.config["clip_shape"]
        return ClipShape(frames=frames, height=height, width=width, fps=self.config["fps"])

    def _routing(self, routing: str | Routing | None, top_k: int, kept_until: float | None) -> Routing:
        """Returns the routing that a call names, or the pipeline's own; UsageError."""
        if isinstance(routing, Routing):
            return routing
        if routing is None:
            own = self.config.get("kept_until", 0.0) if kept_until is None else kept_until
            return Routing(self.config.get("routing", "top_k"), top_k, kept_until=own)
        return Routing(routing, top_k, kept_until=kept_until or 0.0)

    def _engine(self, wishes: Wishes, device: Device, older: SeatedPipeline | None = None) -> Engine:
        experts = self.experts
        pool, before = self.seats(device), None if older is None else self.older_seats(older, device)
        mixture = Mixture(pool, self.router, experts.total, experts.present, wishes, before)
        return Engine(mixture, self._frozen, device, tuple(self.config["latent_shape"]))

    def _named_frozen(self) -> FrozenNetworks:
        named = {
            name: Pin(*(self.config[f"{name}_{part}"] for part in ("name", "revision", "sha256")))
            for name in (CODEC, TEXT, FEATURES)
            if self.config[f"{name}_name"]
        }
        return FrozenNetworks(named, self.config["text_tokens"], self.kept_folder)
