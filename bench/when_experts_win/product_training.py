"""Trains the product's networks on clips in memory: its learner takes each step, batches are made here.

Legend: N clips, B a batch of them, S steps drawn at once, L text tokens, D token width, K clusters. t = 1 is
noise.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from bench.when_experts_win.product_set import ProductSet
from paris_p2p.data.batches import Batch
from paris_p2p.data.draws import UNIFORMS
from paris_p2p.device import Device
from paris_p2p.flow.condition import Condition
from paris_p2p.flow.times import flow_times
from paris_p2p.model.checkpoint import load_initial_into, write_initial
from paris_p2p.model.presets import Config, build_expert, parameter_shapes
from paris_p2p.spec import RunSpec
from paris_p2p.training.learner import Learner
from paris_p2p.training.objective import CAPTION_DRAW, batch_clips, expert_losses

DRAWN_STEPS = 32
PART_CLIPS = 500  # whose losses are computed at once
LAST_STEPS = 50  # whose mean is told as the training loss


def seed_of(*names: object) -> int:
    """Returns the seed of the stream of random numbers that belongs to these names."""
    return zlib.crc32(" ".join(map(str, names)).encode())


def rng_at(device: torch.device | str, *names: object) -> torch.Generator:
    """Returns that stream, on a device."""
    return torch.Generator(device).manual_seed(seed_of(*names))


@dataclass(frozen=True)
class Material:
    """Holds a set's clips and captions on a device, and what names clusters to a told model."""

    device: Device
    latents: Tensor  # [N C T H W] float16
    cluster: Tensor  # [N] int64
    caption: Tensor  # [N] int64
    tokens: Tensor  # [M L D]
    mask: Tensor  # [M L]
    pooled: Tensor  # [M P]
    names: Tensor  # [K D]

    @classmethod
    def of(cls, made: ProductSet, device: Device) -> Material:
        put = device.torch
        return cls(
            device,
            made.latents.to(put),
            made.cluster.to(put, torch.int64),
            made.caption.to(put, torch.int64),
            made.tokens.to(put).float(),
            made.mask.to(put),
            made.pooled.to(put).float(),
            cluster_names(made).to(put),
        )

    def condition(self, rows: Tensor) -> Condition:
        """Returns what captions say of clips: rows [B]."""
        said = self.caption[rows]
        return Condition(self.tokens[said], self.mask[said], self.pooled[said])

    def batch(self, rows: Tensor, noise: Tensor, normal: Tensor, uniforms: Tensor) -> Batch:
        """Returns the clips `rows` [B] with their draws, as the product's trainer takes them."""
        known, pooled = self.condition(rows), self.pooled[self.caption[rows]]
        return Batch(
            first_clip=0,
            latent=self.latents[rows],
            tokens=known.tokens,
            mask=known.mask,
            pooled=pooled,
            cluster=self.cluster[rows],
            noise=noise,
            normal=normal,
            uniforms=uniforms,
        )


def cluster_names(made: ProductSet) -> Tensor:
    """Returns a text token for each cluster, random and as long as the captions' own are: [K D]."""
    rng = torch.Generator().manual_seed(0)
    drawn = torch.randn(made.about.clusters, made.about.text.dim, generator=rng)
    length = made.tokens[made.mask].float().norm(dim=1).mean()
    named: Tensor = drawn / drawn.norm(dim=1, keepdim=True) * length
    return named


def told(condition: Condition, names: Tensor) -> Condition:
    """Appends to each caption the token that names its cluster: names [B D].

    It is seen whether the caption is or not, so that a told model never is without it.
    """
    seen = torch.ones(len(names), 1, dtype=torch.bool, device=names.device)
    tokens = torch.cat([condition.tokens, names[:, None].to(condition.tokens.dtype)], 1)
    return replace(condition, tokens=tokens, mask=torch.cat([condition.mask, seen], 1))


@dataclass(frozen=True)
class Lesson:
    """Says which slot of a run learns from which clips."""

    run: str  # its name, seed and arm: first weights and draws follow from it
    spec: RunSpec
    slot: str
    rows: Tensor  # [N] of the set
    steps: int
    caption_dropout: float = 0.0  # of a told model, whose captions are dropped here
    is_told: bool = False
    start: Path | None = None  # weights to go on from


def learn(lesson: Lesson, material: Material) -> tuple[Learner, float]:
    """Trains a slot, and returns its learner and the mean loss of its last steps; DivergedError."""
    learner = Learner(lesson.run, lesson.spec, lesson.slot, material.device)
    if lesson.start is not None:
        learner.start_from(lesson.start)
    losses = [learner.step(batch) for batch in batches(lesson, material)]
    last = losses[-LAST_STEPS:]
    return learner, sum(last) / len(last)


def batches(lesson: Lesson, material: Material) -> Iterator[Batch]:
    """Yields the batches of all steps; each pass goes through the rows in an order of its own."""
    size = batch_clips(lesson.spec, lesson.slot)
    device = material.device.torch
    order = passes(lesson.rows, size * lesson.steps, rng_at("cpu", lesson.run, lesson.slot, "order"))
    order = order.to(device).view(lesson.steps, size)
    rng = rng_at(device, lesson.run, lesson.slot, "draws")
    shape = material.latents.shape[1:]
    for first in range(0, lesson.steps, DRAWN_STEPS):
        count = min(DRAWN_STEPS, lesson.steps - first)
        noise = torch.randn(count, size, *shape, generator=rng, device=device)
        normal = torch.randn(count, size, generator=rng, device=device, dtype=torch.float64)
        uniforms = torch.rand(count, size, UNIFORMS, generator=rng, device=device, dtype=torch.float64)
        for step in range(count):
            batch = material.batch(order[first + step], noise[step], normal[step], uniforms[step])
            yield told_batch(batch, material, lesson.caption_dropout) if lesson.is_told else batch


def told_batch(batch: Batch, material: Material, caption_dropout: float) -> Batch:
    """Returns a batch with the clusters' names as tokens, its captions dropped by their draws."""
    dropped = batch.uniforms[:, CAPTION_DRAW] < caption_dropout  # [B]
    known = Condition(batch.tokens, batch.mask & ~dropped[:, None], batch.pooled)
    known = told(known, material.names[batch.cluster])
    return replace(batch, tokens=known.tokens, mask=known.mask)


def passes(rows: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Returns `count` of the rows: all of them, shuffled, again and again."""
    whole = -(-count // len(rows))
    return torch.cat([rows[torch.randperm(len(rows), generator=rng)] for _ in range(whole)])[:count]


def keep(learner: Learner, path: Path) -> None:
    """Writes a learner's averaged weights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_initial(path, learner.ema, torch.float32)


def read_weights(config: Config, path: Path, *, router: bool = False) -> dict[str, Tensor]:
    """Reads weights that `keep` wrote; CheckpointError."""
    state = {name: torch.empty(shape) for name, shape in parameter_shapes(config, router=router).items()}
    load_initial_into(path, state)
    return state


@torch.no_grad()
def held_out_losses(learner: Learner, material: Material, rows: Tensor, is_told: bool = False) -> Tensor:
    """Returns the loss of each of some clips [n] with the averaged weights, captions shown.

    Noise and times are the same for every network; times are spread over their law in even shares.
    """
    network = build_expert(dict(learner.spec.expert.config))
    network.load_state_dict(learner.ema)
    network = network.to(material.device.torch).eval()
    rng = rng_at("cpu", "validation", len(rows))
    noise = torch.randn(len(rows), *material.latents.shape[1:], generator=rng)
    slices = (torch.randperm(len(rows), generator=rng).double() + 0.5) / len(rows)
    t = flow_times(torch.special.ndtri(slices), 0.0, 1.0, 1.0, predicts_noise=False)
    found = []
    for start in range(0, len(rows), PART_CLIPS):
        part = slice(start, start + PART_CLIPS)
        where = rows[part].to(material.device.torch)
        none = torch.ones(len(where), UNIFORMS, device=where.device, dtype=torch.float64)
        batch = material.batch(where, noise[part].to(where.device), none[:, 0], none)
        if is_told:
            batch = told_batch(batch, material, 0.0)
        with material.device.autocast():
            found.append(expert_losses(network, batch, t[part].to(where.device), batch.mask).cpu())
    return torch.cat(found)
