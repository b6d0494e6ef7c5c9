"""The one engine that makes clips, for `paris-peer generate` and for ParisPipeline alike.

    condition = text encoder(prompts), and the first picture where there is one
    x = noise, of each clip's own number
    for t, until in the solver's times:                             from 1, noise, to 0, data
        w = router(x, t, text)                                      one weight an expert, or kept from t = 1
        v = sum_k w_k guided(expert_k, x, t, text, first picture)   flow/guidance.py
        x = the solver's step along v                               flow/sampler.py, or a diffusers scheduler
    pixels = codec.decode(x)

Clips are computed a batch at a time, and a clip's number alone decides its noise, so the same seed gives the
same bytes for every caller. Legend: B clips, C T H W latents, K experts, S steps. t = 1 is noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paris_p2p.device import Device
from paris_p2p.errors import DataError
from paris_p2p.flow.autoguidance import Autoguided
from paris_p2p.flow.condition import Condition
from paris_p2p.flow.guidance import guided_velocity, within
from paris_p2p.flow.mixture import ExpertPool
from paris_p2p.flow.sampler import Velocity
from paris_p2p.generation.first_picture import Picture, encode_first, look_at
from paris_p2p.generation.frozen import FrozenNetworks
from paris_p2p.generation.routed import Chooser, ExpertSeats, batch_clips_for
from paris_p2p.generation.schedulers import Solver
from paris_p2p.generation.wishes import Wishes
from paris_p2p.model.router import Router
from paris_p2p.spec import ClipShape

CLIP_NUMBERS = 1 << 32  # per prompt: a clip's noise does not depend on how many clips other prompts get
PROMPTS_AT_ONCE = 32
MAX_CLIPS = 100_000  # of one call, for each prompt


@dataclass(frozen=True)
class Mixture:
    """Experts and router of a run, and how they are asked."""

    pool: ExpertSeats
    router: Router | None
    experts: int
    present: list[int]
    wishes: Wishes
    older: ExpertPool | None = None  # the same experts at an earlier time of their training

    @property
    def guided_pool(self) -> ExpertPool:
        """Returns the experts as clips are made with them; `pool` as they are."""
        if self.older is None:
            return self.pool
        return Autoguided(self.pool, self.older, self.wishes.autoguide_scale)

    def chooser(self, uniforms: Tensor | None = None) -> Chooser:
        """Returns a chooser that remembers one batch's weights, and draws by `uniforms` [B] where it draws;
        UsageError when the routing cannot be.
        """
        return Chooser(self.router, self.experts, self.present, self.wishes.routing, uniforms)


@dataclass
class Denoising:
    """What sampling works on, for all clips at once; a callback may change it between steps."""

    latents: Tensor  # [B C T H W], noise at first
    condition: Condition  # of each clip
    guidance: float
    negative: Condition | None = None  # None: guided away from no text
    uniforms: Tensor | None = None  # [B], in [0, 1): they decide which experts are drawn
    stopped: bool = False


class Engine:
    """Makes clips of one latent shape on one device; UsageError when the mixture cannot be asked so."""

    def __init__(
        self,
        mixture: Mixture,
        frozen: FrozenNetworks,
        device: Device,
        latent: tuple[int, int, int, int],
        batch_clips: int = 0,
    ):
        mixture.chooser()  # so that a routing without its router is refused before anything takes time
        self.mixture, self.frozen, self.device, self.latent = mixture, frozen, device, latent
        self.batch_clips = batch_clips or batch_clips_for(mixture.pool.config, latent)

    def encode(self, prompts: Sequence[str]) -> tuple[Condition, list[str]]:
        """Returns what experts and router are told of each prompt, and a sentence for each that is cut;
        DataError when the encoder is not as wide as the run's.
        """
        encoder = self.frozen.text(self.device)
        parts = [
            encoder.encode(prompts[start:stop]) for start, stop in in_batches(len(prompts), PROMPTS_AT_ONCE)
        ]
        condition = Condition(
            # out of inference mode
            *(
                torch.cat([getattr(part, name) for part in parts]).clone()
                for name in ("tokens", "mask", "pooled")
            )
        )
        found = tuple(condition.tokens.shape[1:])
        expected = self.frozen.text_tokens, self.mixture.pool.config["text_width"]
        if found != expected:
            raise DataError(
                f"the text encoder {self.frozen.pins['text'].name} gives {found}, the run has {expected}"
            )
        return condition, encoder.say_cut(prompts)

    def with_picture(self, condition: Condition, picture: Picture, clip: ClipShape) -> Condition:
        """Returns the condition with one picture for all clips, or one for each, as first frames."""
        codec, count = self.frozen.codec(self.device), len(condition.mask)
        first = encode_first(codec, clip, picture, self.device.torch)
        channels, _, height, width = self.latent
        if first.shape[3:] != (height, width) or first.shape[1] != channels + 1:
            raise DataError(
                f"the codec {codec.name} makes {tuple(first.shape[1:])} of the image, with a mask; "
                f"the run has {self.latent}"
            )
        condition = replace(condition, first=first.expand(count, *first.shape[1:]))
        router = self.mixture.router
        network = self.frozen.features(self.device) if router is not None else None
        if router is None or network is None:
            return condition
        features = look_at(network, picture, router.config["first_width"], self.device.torch)
        return replace(condition, first_features=features.expand(count, -1))

    def denoise(
        self,
        state: Denoising,
        solver_for: Callable[[slice], Solver],
        on_step: Callable[[int, Denoising], None] | None = None,
    ) -> Tensor:
        """Takes `state.latents` from noise to data, all batches step by step, and returns the weights that
        were chosen: [B S K].

        `solver_for` makes the solver of a batch's clips; `on_step` hears each step that is done, from 0 on.
        DataError when the latents are not finite.
        """
        rows = [slice(start, stop) for start, stop in in_batches(len(state.latents), self.batch_clips)]
        numbers = state.uniforms
        parts = [
            (each, solver_for(each), self.mixture.chooser(None if numbers is None else numbers[each]))
            for each in rows
        ]
        times, done = parts[0][1].times, 0
        for t, until in pairwise(times):
            state.latents = torch.cat(
                [
                    solver.step(self._velocity(state, each, chooser), state.latents[each], t, until)
                    for each, solver, chooser in parts
                ]
            )
            done += 1
            if on_step is not None:
                on_step(done - 1, state)
            if state.stopped:
                break
        if not bool(state.latents.isfinite().all()):
            raise DataError(
                f"sampling with guidance {state.guidance:g} gave values that are not finite; use a lower one"
            )
        return torch.cat([chooser.chosen(done) for _, _, chooser in parts])

    def decode(self, latents: Tensor) -> NDArray[np.uint8]:
        """Returns the pixels of latents [B C T H W]: [B T H W 3]."""
        codec = self.frozen.codec(self.device)
        videos = [
            codec.decode(latents[start:stop]).cpu().numpy()
            for start, stop in in_batches(len(latents), self.batch_clips)
        ]
        return np.concatenate(videos)

    def _velocity(self, state: Denoising, rows: slice, chooser: Chooser) -> Velocity:
        wishes, pool = self.mixture.wishes, self.mixture.guided_pool
        condition = state.condition.part(rows)
        negative = None if state.negative is None else state.negative.part(rows)

        def guided(scale: float) -> Velocity:
            return guided_velocity(
                wishes.guidance_form,
                pool,
                chooser,
                condition,
                scale,
                negative,
                chooser.away,
            )

        return within(wishes.guidance_interval, guided(state.guidance), guided(1.0))


def clip_numbers(clips: range, per_prompt: int) -> list[int]:
    """Returns the numbers that decide the noise of clips, counted prompt by prompt."""
    return [clip // per_prompt * CLIP_NUMBERS + clip % per_prompt for clip in clips]


def step_generators(rng_seed: int, numbers: Sequence[int]) -> list[torch.Generator]:
    """Returns what draws the noise that stochastic schedulers add, for each clip by its number."""
    seeds = [hashlib.sha256(f"{rng_seed}/{number}".encode()).digest() for number in numbers]
    return [torch.Generator().manual_seed(int.from_bytes(seed[:7], "little")) for seed in seeds]


def in_batches(count: int, size: int) -> Iterator[tuple[int, int]]:
    """Returns the bounds of stretches of `size`, the last one shorter."""
    return ((start, min(count, start + size)) for start in range(0, count, size))
