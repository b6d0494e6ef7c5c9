"""The noise that a call of ParisPipeline begins with, and what else is drawn for its clips.

Legend: B clips, C T H W latents. t = 1 is noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from blake3 import blake3
from torch import Tensor

from paris_p2p.errors import UsageError
from paris_p2p.flow.mixture import Routing
from paris_p2p.generation import pipeline_inputs as inputs
from paris_p2p.generation.engine import step_generators
from paris_p2p.generation.pipeline_inputs import Generators
from paris_p2p.generation.routed import clip_noise, clip_uniforms


@dataclass(frozen=True)
class CallNoise:
    """All chance of one call."""

    latents: Tensor  # [B C T H W]
    generators: list[torch.Generator] | None  # of each clip: more noise for schedulers that add some
    uniforms: Tensor | None  # [B], in [0, 1): they decide which experts are drawn; None: none is


def noise_of(
    routing: Routing,
    numbers: Sequence[int],
    latent: tuple[int, ...],
    device: torch.device,
    given: tuple[Tensor | None, Generators, int | None],
) -> CallNoise:
    """Returns the noise of clips by their numbers, out of the latents, the generator and the seed that a call
    was `given`; UsageError.
    """
    latents, generator, rng_seed = given
    if rng_seed is not None and (generator is not None or not isinstance(rng_seed, Integral) or rng_seed < 0):
        raise UsageError(f"rng_seed {rng_seed}: give a whole number from 0 on, or a generator and not both")
    shape = (len(numbers), *latent)
    generators = inputs.generator_of_each(generator, len(numbers))
    if rng_seed is not None:
        generators = step_generators(rng_seed, numbers)
    if latents is not None:
        noise = inputs.given_latents(latents, shape).to(device)
    elif rng_seed is not None:
        noise = clip_noise(rng_seed, numbers, latent).to(device)
    else:
        noise = inputs.drawn_latents(generator, shape, device)
    uniforms = None
    if routing.needs_uniforms:
        seeded = rng_seed is not None
        uniforms = clip_uniforms(int(rng_seed or 0), numbers) if seeded else _hashed(noise)
        uniforms = uniforms.to(device)
    return CallNoise(noise, generators, uniforms)


def _hashed(noise: Tensor) -> Tensor:
    """Returns a number in [0, 1) for each clip, a function of its noise alone: [B C T H W] -> [B] float64.

    So the same noise draws the same expert, and no generator moves on. A hash is as good as
    chance, and what it says of the noise is nothing that a flow could use.
    """
    rows = noise.float().cpu().contiguous()
    digests = [blake3(b"paris-p2p/1 expert\0" + row.numpy().tobytes()).digest() for row in rows]
    numbers = [(int.from_bytes(each[:7], "little") >> 3) * 2.0**-53 for each in digests]
    return torch.tensor(numbers, dtype=torch.float64)
