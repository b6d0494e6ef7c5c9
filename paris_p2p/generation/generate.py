"""Video from prompts with all experts of a run, out of local files alone: encode, sample the routed mixture,
decode, write.

Legend: B clips, K experts, S steps. t = 1 is noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from paris_p2p.codec.text import load_text_encoder
from paris_p2p.codec.video import Codec, load_codec
from paris_p2p.device import Device, pick_device, return_memory, set_threads
from paris_p2p.errors import DataError
from paris_p2p.features.image import load_first_features
from paris_p2p.fetched_run import FetchedRun, check_slots
from paris_p2p.flow.guidance import Condition, guided_velocity
from paris_p2p.flow.mixture import Routing
from paris_p2p.flow.sampler import sample, time_grid
from paris_p2p.generation.first_picture import Picture, check_trained_for, encode_first, look_at, read_picture
from paris_p2p.generation.routed import (
    Chooser,
    ExpertSeats,
    batch_clips_for,
    clip_noise,
    expert_state,
    load_router,
    seats_for,
)
from paris_p2p.generation.trained import Trained, trained_slots
from paris_p2p.generation.video_out import Info, open_writer
from paris_p2p.progress import Progress
from paris_p2p.spec import ROUTER
from paris_p2p.weights import MAX_CAPTION_CHARACTERS

Prompt = Annotated[str, Field(max_length=MAX_CAPTION_CHARACTERS)]
CLIP_NUMBERS = 1 << 32  # per prompt: a clip's noise does not depend on how many clips other prompts get


class GenerateJob(BaseModel):
    """What to make of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: Path | None = None  # every clip's first frame
    prompts: tuple[Prompt, ...] = Field(min_length=1, max_length=100_000)
    clips_per_prompt: Annotated[int, Field(ge=1, le=100_000)] = 1
    steps: Annotated[int, Field(ge=1, le=1000)] = 50
    shift: Annotated[float, Field(ge=0, le=100)] = 0.0  # of the time grid; 0: the run's
    sampler: str = "euler"
    guidance: Annotated[float, Field(ge=0, le=1000)] = 4.0
    guidance_form: str = "per_expert"
    routing: str = "top_k"
    top_k: Annotated[int, Field(ge=1)] = 1
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.1
    expert: Annotated[int, Field(ge=0)] = 0  # of the routing `single`
    rng_seed: Annotated[int, Field(ge=0)] = 0
    batch_clips: Annotated[int, Field(ge=0)] = 0  # 0: as many as keep the memory bounded
    device: str = "auto"
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    out: Path
    allow_partial: bool = False


@dataclass(frozen=True)
class GenerateResult:
    """What was made, and from what."""

    paths: tuple[Path, ...]
    run: str
    cards: dict[str, str]
    trained: dict[str, Trained]  # by slot
    missing: tuple[str, ...]  # slots that were not there
    prompts: tuple[str, ...]  # of each clip
    chosen: Tensor  # weights at each step: [clips, steps, K]
    notes: tuple[str, ...] = ()  # what was cut

    def describe(self) -> str:
        """For a person: the files, the cards, and the experts of each clip, step by step."""
        lines = [f"wrote {path}" for path in self.paths]
        cards = {slot: self.cards.get(slot, "") for slot in self.trained}
        lines += [f"{slot:<10} {card[:16]}…  {self.trained[slot].describe()}" for slot, card in cards.items()]
        if self.missing:
            lines.append(f"partial: {', '.join(self.missing)} missing, routed among the others")
        lines += [f"note: {note}" for note in self.notes]
        lines += [
            f"{prompt[:60]!r}: {steps_in_words(weights)}"
            for prompt, weights in zip(self.prompts, self.chosen, strict=True)
        ]
        return "\n".join(lines)


def generate(run: FetchedRun, job: GenerateJob, progress: Progress | None = None) -> GenerateResult:
    """Makes all clips of a job out of a run's files; SlotMissingError, CheckpointError, UsageError and more
    before anything is sampled.
    """
    report = progress or (lambda stage, done, total: None)
    set_threads(job.threads)
    device = pick_device(job.device)
    spec = run.spec
    job = job.model_copy(update={"shift": job.shift or spec.training.time_shift})
    missing = check_slots(spec, run.weights, partial=job.allow_partial)
    check_trained_for(spec.training.first_frame_rate, image=job.image is not None)
    trained = trained_slots(spec, run.weights)
    picture = read_picture(job.image, spec.clip) if job.image else None
    prompts = tuple(prompt for prompt in job.prompts for _ in range(job.clips_per_prompt))
    with open_writer(job.out, len(prompts), spec.clip.fps, spec.clip.frames) as writer:
        sampler = _Sampler(run, job, device)
        report("reading prompts", 0, len(job.prompts))
        condition, cut = _encode(run, job, device)
        report("reading prompts", len(job.prompts), len(job.prompts))
        codec = _codec(run, device)
        if picture is not None:
            condition = _with_picture(run, condition, picture, codec, device)
        all_chosen = []
        for start, stop in _batches(
            len(prompts), job.batch_clips or batch_clips_for(spec.expert.config, spec.latent.shape)
        ):
            steps_done = partial(_report_steps, report, start, stop, len(prompts), job.steps)
            latents, chosen = sampler.run(condition, range(start, stop), steps_done)
            videos = codec.decode(latents).cpu().numpy()
            image = {"image_sha256": picture.sha256} if picture else {}
            infos = [
                _info(run, job, prompts[clip], chosen[clip - start], missing) | image
                for clip in range(start, stop)
            ]
            writer.add(videos, infos)
            all_chosen.append(chosen)
    notes = (*cut, *writer.notes)
    return GenerateResult(
        tuple(writer.paths), run.id, dict(run.cards), trained, missing, prompts, torch.cat(all_chosen), notes
    )


def steps_in_words(weights: Tensor) -> str:
    """Which experts moved a clip, as runs of steps: [S K] -> `1-12: expert-2, 13-16: expert-0 0.70 +
    expert-1 0.30`.
    """
    words = [_weights_in_words(row) for row in weights]
    runs, step = [], 1
    for word, group in groupby(words):
        count = len(list(group))
        runs.append(f"{step}: {word}" if count == 1 else f"{step}-{step + count - 1}: {word}")
        step += count
    return ", ".join(runs)


class _Sampler:
    """One run's experts and router, ready."""

    def __init__(self, fetched: FetchedRun, job: GenerateJob, device: Device):
        spec = fetched.spec
        self.fetched, self.job, self.spec, self.device = fetched, job, spec, device
        routing = Routing(job.routing, job.top_k, job.threshold, job.expert)
        router = (
            load_router(spec.router.config, fetched.weights[ROUTER], device)
            if ROUTER in fetched.weights and routing.needs_router
            else None
        )
        self.chooser = Chooser(router, spec.experts, fetched.experts, routing)
        seats = seats_for(spec.expert.config, device)
        self.pool = ExpertSeats(
            spec.expert.config, self._fetcher(), device, seats, spec.training.ddpm_experts
        )
        self.times = time_grid(job.steps, job.shift)

    def run(
        self, condition: Condition, clips: range, steps_done: Callable[[int], None]
    ) -> tuple[Tensor, Tensor]:
        """Sample these clips: (latents [B C T H W], weights chosen [B S K])."""
        job = self.job
        rows = torch.tensor([clip // job.clips_per_prompt for clip in clips], device=self.device.torch)
        numbers = [
            clip // job.clips_per_prompt * CLIP_NUMBERS + clip % job.clips_per_prompt for clip in clips
        ]
        noise = clip_noise(job.rng_seed, numbers, self.spec.latent.shape).to(self.device.torch)
        velocity = guided_velocity(
            job.guidance_form, self.pool, self.chooser, condition.pick(rows), job.guidance
        )
        latents = sample(velocity, noise, self.times, job.sampler, steps_done)
        if not bool(latents.isfinite().all()):
            raise DataError(
                f"sampling with guidance {job.guidance:g} gave values that are not finite; use a lower one"
            )
        return latents, self.chooser.chosen(job.steps)

    def _fetcher(self) -> Callable[[int], Any]:
        def fetch(k: int) -> Any:
            return expert_state(self.spec.expert.config, self.fetched.weights[f"expert-{k}"], self.device)

        if not self.device.cuda:
            return fetch  # the seats are in main memory themselves
        waiting = seats_for(self.spec.expert.config, pick_device("cpu"))
        return lru_cache(maxsize=waiting)(fetch)


def _encode(run: FetchedRun, job: GenerateJob, device: Device) -> tuple[Condition, list[str]]:
    """The prompts' embeddings, and which were cut; the encoder's memory is given back."""
    text, shape = run.spec.text, run.spec.text_shape
    encoder = load_text_encoder(
        text.name,
        run.text_folder,
        tokens=shape.tokens,
        revision=text.revision,
        sha256=text.sha256,
        device=str(device),
    )
    parts = [encoder.encode(job.prompts[start:stop]) for start, stop in _batches(len(job.prompts), 32)]
    condition = Condition(
        *(torch.cat([getattr(part, name) for part in parts]).clone() for name in ("tokens", "mask", "pooled"))
    )
    if condition.tokens.shape[1:] != (shape.tokens, shape.dim):
        raise DataError(
            f"the text encoder {text.name} gives {tuple(condition.tokens.shape[1:])}, "
            f"the run has {(shape.tokens, shape.dim)}"
        )
    cut = encoder.say_cut(job.prompts)
    del encoder, parts
    return_memory(device)
    return condition, cut


def _with_picture(
    run: FetchedRun, condition: Condition, picture: Picture, codec: Codec, device: Device
) -> Condition:
    """The prompts' conditions with the one picture as the first frame of all."""
    spec = run.spec
    first = encode_first(codec, spec.clip, picture, device.torch)
    if first.shape[3:] != spec.latent.shape[2:] or first.shape[1] != spec.latent.channels + 1:
        raise DataError(
            f"the codec {codec.name} makes {tuple(first.shape[1:])} of the image, with a mask; "
            f"the run has {spec.latent.shape}"
        )
    condition = replace(condition, first=first.expand(len(condition.mask), *first.shape[1:]))
    if spec.first_features is None:
        return condition
    pinned = spec.first_features
    network = load_first_features(
        pinned.name, run.features_folder, revision=pinned.revision, sha256=pinned.sha256, device=str(device)
    )
    features = look_at(network, picture, spec.first_width, device.torch)
    return replace(condition, first_features=features.expand(len(condition.mask), -1))


def _codec(run: FetchedRun, device: Device) -> Codec:
    spec = run.spec
    return load_codec(
        spec.codec.name,
        run.codec_folder,
        revision=spec.codec.revision,
        sha256=spec.codec.sha256,
        device=str(device),
    )


def _batches(count: int, size: int) -> Iterator[tuple[int, int]]:
    return ((start, min(count, start + size)) for start in range(0, count, size))


def _report_steps(report: Progress, start: int, stop: int, clips: int, steps: int, done: int) -> None:
    report("denoising steps", start * steps + done * (stop - start), clips * steps)


def _info(run: FetchedRun, job: GenerateJob, prompt: str, chosen: Tensor, missing: tuple[str, ...]) -> Info:
    """What a file says of how it was made."""
    return {
        "generator": "paris-p2p",
        "run": run.id,
        "cards": dict(run.cards),
        "prompt": prompt,
        "rng_seed": job.rng_seed,
        **job.model_dump(
            include={"steps", "shift", "sampler", "guidance", "guidance_form", "routing", "top_k"}
        ),
        "partial": bool(missing),
        "missing": list(missing),
        "experts": steps_in_words(chosen),
    }


def _weights_in_words(row: Tensor) -> str:
    used = [(float(weight), k) for k, weight in enumerate(row) if weight > 0]
    if len(used) == 1:
        return f"expert-{used[0][1]}"
    return " + ".join(f"expert-{k} {weight:.2f}" for weight, k in sorted(used, key=lambda pair: -pair[0]))
