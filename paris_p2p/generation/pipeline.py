"""ParisPipeline: all experts of a run as a diffusers pipeline, `ParisPipeline.from_pretrained(folder)("a
prompt").frames`.

The folder is what `paris-run export` writes. Legend: B clips, T frames, H x W pixels, K experts, S steps. t =
1 is noise.
"""

# Annotations stay objects here, not strings: diffusers reads the constructor's to find its components.

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.utils import BaseOutput
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from paris_p2p.bounded_json import read_json
from paris_p2p.codec.text import TextEncoder, load_text_encoder
from paris_p2p.codec.video import Codec, load_codec
from paris_p2p.device import Device, pick_device
from paris_p2p.errors import UsageError
from paris_p2p.features.image import load_first_features
from paris_p2p.flow.ddpm import Clamp
from paris_p2p.flow.guidance import Condition, guided_velocity
from paris_p2p.flow.mixture import Routing
from paris_p2p.generation.first_picture import (
    Picture,
    check_trained_for,
    encode_first,
    look_at,
    opened_picture,
)
from paris_p2p.generation.routed import Chooser, ExpertSeats, batch_clips_for, clip_noise
from paris_p2p.model.experts import ExpertSet
from paris_p2p.model.router import Router
from paris_p2p.model_folder import index_of
from paris_p2p.spec import ClipShape
from paris_p2p.weights import MAX_CONFIG_BYTES

CODEC, TEXT, FEATURES = "codec", "text", "features"  # folders
COMPONENTS = {  # of a saved pipeline: their classes are not for a folder to choose
    "experts": ["paris_p2p.model.experts", "ExpertSet"],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "router": ["paris_p2p.model.router", "Router"],
}
log = logging.getLogger(__name__)
AnyImage = Image.Image | str | Path


@dataclass
class ParisOutput(BaseOutput):
    """Clips in the form that was asked for, and the weights of the experts that made them."""

    # `pil`: B lists of T pictures; `np` float32 in 0..1 and `uint8`: [B T H W 3]; `pt`: float32 [B T 3 H W]
    frames: Any
    experts: NDArray[np.float32]  # [B S K]


def _pictures(clips: NDArray[np.uint8]) -> list[list[Image.Image]]:
    return [[Image.fromarray(frame) for frame in clip] for clip in clips]


def _floats(clips: NDArray[np.uint8]) -> NDArray[np.float32]:
    return clips.astype(np.float32) / np.float32(255)


def _tensor(clips: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(_floats(clips)).permute(0, 1, 4, 2, 3).contiguous()


OUTPUT_TYPES: dict[str, Callable[[NDArray[np.uint8]], Any]] = {
    "pil": _pictures,
    "np": _floats,
    "pt": _tensor,
    "uint8": lambda clips: clips,
}


def _check_folder(folder: Path) -> None:
    """UsageError unless the folder's index names our own classes and every index in it safetensors files."""
    index = read_json(folder / "model_index.json", MAX_CONFIG_BYTES)
    for name, value in index.items() if isinstance(index, dict) else ():
        component = isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
        if component and not name.startswith("_") and value != COMPONENTS.get(name):
            named = f"{str(value[0])[:60]}.{str(value[1])[:60]} as {name[:60]}"
            raise UsageError(f"{folder} names the class {named}; it is no exported run, do not trust it")
    for path in folder.rglob("*.index.json"):
        index_of(path)


class ParisPipeline(DiffusionPipeline):
    """Experts, router and scheduler are components; codec and text encoder are named, pinned, and loaded
    when first needed.
    """

    _optional_components = ["router"]

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
    ):
        super().__init__()
        self.register_modules(experts=experts, scheduler=scheduler, router=router)
        self.register_to_config(
            latent_shape=list(latent_shape or (1, 1, 1, 1)), fps=fps, run=run, text_tokens=text_tokens,
            time_mean=time_mean, time_std=time_std,
            codec_name=codec_name, codec_revision=codec_revision, codec_sha256=codec_sha256,
            text_name=text_name, text_revision=text_revision, text_sha256=text_sha256,
            clip_shape=list(clip_shape or ()), first_frame_rate=first_frame_rate,
            features_name=features_name, features_revision=features_revision, features_sha256=features_sha256,
            run_name=run_name, data_id=data_id, trained=dict(trained or {}),
        )  # fmt: skip
        self.folder: Path | None = None  # that holds codec/ and text/
        self._offload: tuple[Device, int] | None = None
        self._codec: Codec | None = None
        self._text: TextEncoder | None = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Self:
        """Load a folder that `paris-run export` or `save_pretrained` wrote; UsageError when there is none."""
        # what is loaded later is found from elsewhere too
        folder = Path(pretrained_model_name_or_path).absolute()
        if not (folder / "model_index.json").is_file():
            raise UsageError(
                f"{folder} holds no exported run; write one with `paris-run export INVITE --out {folder}`"
            )
        _check_folder(folder)
        options = {"local_files_only": True, "use_safetensors": True, "low_cpu_mem_usage": False, **options}
        pipeline: Self = super().from_pretrained(str(folder), **options)
        pipeline.folder = folder
        return pipeline

    def save_pretrained(self, save_directory: str | Path, *arguments: Any, **options: Any) -> None:
        """Write everything, codec and text encoder too where they are files."""
        folder = Path(save_directory).absolute()
        if self.folder is not None and folder.exists() and folder.samefile(self.folder):
            self._save_again(folder, *arguments, **options)
            return
        super().save_pretrained(str(folder), *arguments, **options)
        for name in (CODEC, TEXT, FEATURES):
            if self.folder is not None and (self.folder / name).is_dir():
                shutil.copytree(self.folder / name, folder / name, dirs_exist_ok=True)

    def _save_again(self, folder: Path, *arguments: Any, **options: Any) -> None:
        """Replace the files that it was loaded from: written beside, since the old ones are still read
        from, then moved.
        """
        with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as beside:
            super().save_pretrained(beside, *arguments, **options)
            for path in sorted(Path(beside).rglob("*")):
                target = folder / path.relative_to(beside)
                if path.is_dir():
                    target.mkdir(exist_ok=True)
                else:
                    path.replace(target)

    def enable_expert_offload(self, device: str = "auto", seats: int = 1) -> None:
        """Compute on `device` with at most `seats` experts there at once; the others wait in main memory
        until routed to.
        """
        self._offload = (pick_device(device), seats)
        if self.router is not None:
            self.router.to(self._offload[0].torch)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        num_inference_steps: int = 50,
        guidance_scale: float = 4.0,
        *,
        guidance_form: str = "per_expert",
        routing: str = "top_k",
        top_k: int = 1,
        clips_per_prompt: int = 1,
        generator: torch.Generator | None = None,
        rng_seed: int = 0,
        image: AnyImage | Sequence[AnyImage] | None = None,
        output_type: str = "pil",
    ) -> ParisOutput:
        """Clips for each prompt: prompt by prompt, `clips_per_prompt` of each, from the first frame `image`,
        or each prompt's of several.

        Frames are as diffusers' video pipelines give them: `frames[0]` goes into export_to_video or, as
        `pil`, export_to_gif. `generator`, when given, draws the rng_seed. UsageError when the run was not
        trained for what is asked, or the router is missing.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts or clips_per_prompt < 1 or num_inference_steps < 1:
            asked = (
                f"{len(prompts)} prompts with {clips_per_prompt} clips each in {num_inference_steps} steps"
            )
            raise UsageError(f"{asked}: there is nothing to make; give at least one of each")
        if output_type not in OUTPUT_TYPES:
            raise UsageError(f"output_type {output_type!r} is none of {', '.join(OUTPUT_TYPES)}")
        if generator is not None:
            rng_seed = int(torch.randint(1 << 62, (), generator=generator, device=generator.device))
        device, seats = self._offload or (pick_device(str(self.experts.device)), self.experts.total)
        clamp = Clamp(self.experts.config["clamp_x0"], self.experts.config["clamp_alpha"])
        pool = ExpertSeats(
            self.experts.config["expert"],
            self.experts.state,
            device,
            seats,
            self.experts.config["ddpm"],
            clamp,
        )
        chooser = Chooser(self.router, self.experts.total, self.experts.present, Routing(routing, top_k))
        check_trained_for(self.config["first_frame_rate"], image=image is not None)
        condition = self._encode(prompts, device)
        if image is not None:
            condition = self._with_image(condition, image, device)
        frames, chosen = [], []
        batch_clips = batch_clips_for(pool.config, self.config["latent_shape"])
        for clips in torch.split(torch.arange(len(prompts) * clips_per_prompt), batch_clips):
            rows, copies = clips // clips_per_prompt, clips % clips_per_prompt
            picked = condition.pick(rows.to(device.torch))
            velocity = guided_velocity(guidance_form, pool, chooser, picked, guidance_scale)
            x = clip_noise(
                rng_seed, (rows * (1 << 32) + copies).tolist(), tuple(self.config["latent_shape"])
            ).to(device.torch)
            x = self._denoise(velocity, x, num_inference_steps)
            frames.append(self._load_codec(device).decode(x).cpu().numpy())
            chosen.append(chooser.chosen(num_inference_steps).numpy())
        return ParisOutput(
            frames=OUTPUT_TYPES[output_type](np.concatenate(frames)), experts=np.concatenate(chosen)
        )

    def _denoise(self, velocity: Any, x: Tensor, steps: int) -> Tensor:
        """All steps of the scheduler, on a grid that is even but for the scheduler's shift and ends at t =
        0: [B C T H W].
        """
        self.scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps).tolist(), device=x.device)
        for timestep, t in self.progress_bar(
            list(zip(self.scheduler.timesteps, self.scheduler.sigmas, strict=False))
        ):
            x = self.scheduler.step(velocity(x, t.to(x.device).expand(len(x))), timestep, x).prev_sample
        return x

    def _encode(self, prompts: list[str], device: Device) -> Condition:
        if self._text is None:
            pins = {name: self.config[f"text_{name}"] for name in ("tokens", "revision", "sha256")}
            self._text = load_text_encoder(self.config["text_name"], self._folder(TEXT), **pins)
        text = self._text.encode(prompts)
        for note in self._text.say_cut(prompts):
            log.warning("%s", note)
        tokens, mask, pooled = (
            tensor.to(device.torch).clone() for tensor in (text.tokens, text.mask, text.pooled)
        )
        return Condition(tokens, mask, pooled)

    def _with_image(
        self, condition: Condition, image: AnyImage | Sequence[AnyImage], device: Device
    ) -> Condition:
        frames, height, width = self.config["clip_shape"]
        clip = ClipShape(frames=frames, height=height, width=width, fps=self.config["fps"])
        images, count = [image] if isinstance(image, AnyImage) else list(image), len(condition.mask)
        if len(images) not in (1, count):
            raise UsageError(f"{len(images)} images for {count} prompts: give one for all, or one for each")
        picture = Picture(torch.cat([opened_picture(each, clip).pixels for each in images]))
        first = encode_first(self._load_codec(device), clip, picture, device.torch)
        condition = replace(condition, first=first.expand(count, *first.shape[1:]))
        if self.router is None or not self.config["features_name"]:
            return condition
        pins = {name: self.config[f"features_{name}"] for name in ("revision", "sha256")}
        network = load_first_features(
            self.config["features_name"], self._folder(FEATURES), device=str(device), **pins
        )
        features = look_at(network, picture, self.router.config["first_width"], device.torch)
        return replace(condition, first_features=features.expand(count, -1))

    def _load_codec(self, device: Device) -> Codec:
        if self._codec is None:
            pins = {name: self.config[f"codec_{name}"] for name in ("revision", "sha256")}
            self._codec = load_codec(
                self.config["codec_name"], self._folder(CODEC), device=str(device), **pins
            )
        return self._codec

    def _folder(self, name: str) -> Path | None:
        return self.folder / name if self.folder is not None and (self.folder / name).is_dir() else None
