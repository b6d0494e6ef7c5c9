"""Video from prompts with all experts of a run, out of local files alone: the engine's clips, written to
files.

Legend: B clips, K experts, S steps. t = 1 is noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from paris_p2p.device import Device, pick_device, set_threads
from paris_p2p.fetched_run import FetchedRun, check_slots
from paris_p2p.flow.condition import Condition
from paris_p2p.flow.mixture import Routing
from paris_p2p.generation.engine import (
    MAX_CLIPS,
    Denoising,
    Engine,
    clip_numbers,
    in_batches,
    step_generators,
)
from paris_p2p.generation.first_picture import check_trained_for, read_picture
from paris_p2p.generation.frozen import FEATURES, TEXT
from paris_p2p.generation.older import open_older
from paris_p2p.generation.routed import clip_noise, clip_uniforms
from paris_p2p.generation.run_engine import open_engine
from paris_p2p.generation.schedulers import Solver, make_scheduler, solver_of
from paris_p2p.generation.trained import Trained, trained_slots
from paris_p2p.generation.video_out import Info, open_writer
from paris_p2p.generation.wishes import SamplingWishes
from paris_p2p.progress import Progress
from paris_p2p.spec import RunSpec
from paris_p2p.weights import MAX_CAPTION_CHARACTERS

Prompt = Annotated[str, Field(max_length=MAX_CAPTION_CHARACTERS)]


class GenerateJob(SamplingWishes):
    """What to make of a run."""

    image: Path | None = None  # every clip's first frame
    prompts: tuple[Prompt, ...] = Field(min_length=1, max_length=100_000)
    negative_prompt: Prompt = ""  # what all clips are guided away from; empty: no text
    clips_per_prompt: Annotated[int, Field(ge=1, le=MAX_CLIPS)] = 1
    shift: Annotated[float, Field(ge=0, le=100)] = 0.0  # of the time grid; 0: the run's
    scheduler: str = "euler"
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.1
    expert: Annotated[int, Field(ge=0)] = 0  # of the routing `single`
    rng_seed: Annotated[int, Field(ge=0)] = 0
    batch_clips: Annotated[int, Field(ge=0)] = 0  # 0: as many as keep the memory bounded
    device: str = "auto"
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    out: Path
    allow_partial: bool = False

    def named_routing(self) -> Routing:
        """Returns the routing with all numbers that some take; UsageError as of SamplingWishes."""
        return replace(super().named_routing(), threshold=self.threshold, expert=self.expert)


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
    behind: Mapping[str, str] = field(default_factory=dict)  # by slot: that a crew is rounds ahead, in words

    def describe(self) -> str:
        """Returns for a person: the files, the cards, and the experts of each clip, step by step."""
        lines = [f"wrote {path}" for path in self.paths]
        cards = {slot: self.cards.get(slot, "") for slot in self.trained}
        lines += [
            f"{slot:<10} {card[:16]}…  {self.trained[slot].describe()}{self.behind.get(slot, '')}"
            for slot, card in cards.items()
        ]
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
    device, spec = pick_device(job.device), run.spec
    job = job.model_copy(update={"shift": job.shift or spec.training.time_shift})
    missing = check_slots(spec, run.weights, partial=job.allow_partial)
    check_trained_for(spec.training.first_frame_rate, image=job.image is not None)
    scheduler = make_scheduler(job.scheduler, job.shift)
    trained = trained_slots(spec, run.weights)
    older = None if job.autoguide is None else open_older(job.autoguide, run)
    picture = read_picture(job.image, spec.clip) if job.image else None
    prompts = tuple(prompt for prompt in job.prompts for _ in range(job.clips_per_prompt))
    with open_writer(job.out, len(prompts), spec.clip.fps, spec.clip.frames) as writer:
        engine = open_engine(run, job.wishes(), device, job.batch_clips, older)
        report("reading prompts", 0, len(job.prompts))
        condition, negative, notes = _read_prompts(engine, job)
        report("reading prompts", len(job.prompts), len(job.prompts))
        engine.frozen.codec(device)  # so that it is refused before anything is sampled
        if picture is not None:
            condition = engine.with_picture(condition, picture, spec.clip)
            engine.frozen.let_go(FEATURES, device)
        all_chosen, image = [], {"image_sha256": picture.sha256} if picture else {}
        for start, stop in in_batches(len(prompts), engine.batch_clips):
            clips = range(start, stop)
            steps_done = partial(_report_steps, report, clips, len(prompts), job.steps)
            state, generators = _noise(job, spec, clips, condition, negative, device)
            solver_for = partial(_solver, scheduler, job.steps, generators)
            chosen = engine.denoise(state, solver_for, steps_done)
            infos = [_info(run, job, prompts[clip], chosen[clip - start], missing) | image for clip in clips]
            writer.add(engine.decode(state.latents), infos)
            all_chosen.append(chosen)
    return GenerateResult(
        tuple(writer.paths), run.id, dict(run.cards), trained, missing, prompts, torch.cat(all_chosen),
        (*notes, *writer.notes), {slot: run.behind_in_words(slot) for slot in trained},
    )  # fmt: skip


def steps_in_words(weights: Tensor) -> str:
    """Returns which experts moved a clip, as runs of steps: [S K] -> `1-12: expert-2, 13-16: expert-0 0.70 +
    expert-1 0.30`.
    """
    words = [_weights_in_words(row) for row in weights]
    runs, step = [], 1
    for word, group in groupby(words):
        count = len(list(group))
        runs.append(f"{step}: {word}" if count == 1 else f"{step}-{step + count - 1}: {word}")
        step += count
    return ", ".join(runs)


def _read_prompts(engine: Engine, job: GenerateJob) -> tuple[Condition, Condition | None, list[str]]:
    """Returns what is known of each prompt and of the negative prompt, and which are cut; the encoder's
    memory is given back.
    """
    condition, cut = engine.encode(job.prompts)
    negative = None
    if job.negative_prompt:
        negative, negative_cut = engine.encode([job.negative_prompt] * len(job.prompts))
        cut = [*cut, *negative_cut]
    engine.frozen.let_go(TEXT, engine.device)
    return condition, negative, cut


def _noise(
    job: GenerateJob,
    spec: RunSpec,
    clips: range,
    condition: Condition,
    negative: Condition | None,
    device: Device,
) -> tuple[Denoising, list[torch.Generator]]:
    """Returns a batch of clips as noise, with what is known of each, and what draws more noise of each."""
    rows = torch.tensor([clip // job.clips_per_prompt for clip in clips], device=device.torch)
    numbers = clip_numbers(clips, job.clips_per_prompt)
    noise = clip_noise(job.rng_seed, numbers, spec.latent.shape).to(device.torch)
    away = None if negative is None else negative.pick(rows)
    generators = step_generators(job.rng_seed, numbers)
    uniforms = clip_uniforms(job.rng_seed, numbers).to(device.torch)
    return Denoising(noise, condition.pick(rows), job.guidance, away, uniforms), generators


def _solver(scheduler: Any, steps: int, generators: list[torch.Generator], rows: slice) -> Solver:
    return solver_of(scheduler, steps, generators[rows])


def _report_steps(
    report: Progress, clips: range, all_clips: int, steps: int, step: int, state: Denoising
) -> None:
    report("denoising steps", clips.start * steps + (step + 1) * len(clips), all_clips * steps)


def _info(run: FetchedRun, job: GenerateJob, prompt: str, chosen: Tensor, missing: tuple[str, ...]) -> Info:
    """Returns what a file says of how it was made."""
    how = job.model_dump(include={"steps", "shift", "guidance", "guidance_form", "routing", "top_k"})
    away = {"negative_prompt": job.negative_prompt} if job.negative_prompt else {}
    return {
        "generator": "paris-p2p",
        "run": run.id,
        "cards": dict(run.cards),
        "prompt": prompt,
        **away,
        "rng_seed": job.rng_seed,
        "steps": how.pop("steps"),
        "shift": how.pop("shift"),
        "sampler": job.scheduler,
        **how,
        **job.model_dump(include={"kept_until", "guidance_interval"}, exclude_defaults=True),
        **({} if job.autoguide is None else {"autoguide_scale": job.autoguide_scale}),
        "partial": bool(missing),
        "missing": list(missing),
        "experts": steps_in_words(chosen),
    }


def _weights_in_words(row: Tensor) -> str:
    used = [(float(weight), k) for k, weight in enumerate(row) if weight > 0]
    if len(used) == 1:
        return f"expert-{used[0][1]}"
    return " + ".join(f"expert-{k} {weight:.2f}" for weight, k in sorted(used, key=lambda pair: -pair[0]))
