"""A model under evaluation, ready on a device: it makes clips, and its router and experts can be asked.

Legend: B clips, K experts, S steps, T frames.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from blake3 import blake3
from numpy.typing import NDArray
from PIL import Image

from paris_p2p.device import Device
from paris_p2p.evaluation.options import EvaluateOptions, check_named
from paris_p2p.evaluation.parts import Arrays
from paris_p2p.fetched_run import FetchedRun
from paris_p2p.generation.engine import Denoising, Engine, clip_numbers
from paris_p2p.generation.first_picture import Picture, opened_picture
from paris_p2p.generation.routed import clip_noise, clip_uniforms
from paris_p2p.generation.run_engine import open_engine, router_of
from paris_p2p.generation.schedulers import make_scheduler, solver_of
from paris_p2p.model.router import Router

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenedModel:
    """A run's engine, and its router even where the routing asks none."""

    run: FetchedRun
    engine: Engine
    router: Router | None

    @property
    def device(self) -> Device:
        return self.engine.device

    def make(
        self,
        captions: Sequence[str],
        rng_seed: int,
        options: EvaluateOptions,
        first_frames: NDArray[np.uint8] | None = None,
    ) -> Arrays:
        """Returns a clip for each caption, from its first frame [B H W 3] where these are given: `frames`
        [B T H W 3], the weights that were `chosen` [B S K], and the times `t` where they were [B S].
        """
        engine, spec, device = self.engine, self.run.spec, self.device.torch
        condition, cut = engine.encode(captions)
        for note in cut:
            log.warning("%s", note)
        if first_frames is not None:
            pictures = [opened_picture(Image.fromarray(frame), spec.clip).pixels for frame in first_frames]
            condition = engine.with_picture(condition, Picture(torch.cat(pictures)), spec.clip)
        numbers = clip_numbers(range(len(captions)), per_prompt=1)
        noise = clip_noise(rng_seed, numbers, spec.latent.shape).to(device)
        state = Denoising(
            noise,
            condition.pick(torch.arange(len(captions), device=device)),
            options.guidance,
            uniforms=clip_uniforms(rng_seed, numbers).to(device),
        )
        scheduler = make_scheduler("euler", spec.training.time_shift)
        chosen = engine.denoise(state, lambda rows: solver_of(scheduler, options.steps))
        times = np.array(solver_of(scheduler, options.steps).times[:-1], dtype=np.float32)
        frames = engine.decode(state.latents)
        return {"frames": frames, "chosen": chosen.numpy(), "t": np.tile(times, (len(captions), 1))}


def open_model(
    run: FetchedRun, options: EvaluateOptions, device: Device, older: FetchedRun | None = None
) -> OpenedModel:
    """Returns the model on a device, autoguided by an older one if given. CheckpointError, UsageError."""
    engine = open_engine(run, check_named(options), device, older=older)
    router = engine.mixture.router
    return OpenedModel(run, engine, router_of(run, device) if router is None else router)


def model_fingerprint(run: FetchedRun) -> str:
    """Returns 64 hex digits over a run and its weights: the same for a fetch and for its export."""
    hasher = blake3(run.id.encode())
    for slot in sorted(run.weights):
        hasher.update(slot.encode() + b"\0" + blake3().update_mmap(run.weights[slot]).digest())
    return hasher.hexdigest()
