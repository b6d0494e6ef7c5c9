"""Trains two experts and a router on digits in motion, and makes clips with them; no network is needed.

    for k in 0, 1:                                     # each alone, on its own cluster of the clips
        expert_k  minimises  |expert_k(x_t, t, text) - (eps - x_0)|^2
    router        minimises  cross_entropy(router(x_t, t, text), cluster)
    for t from 1, noise, to 0, data:                   # the router picks an expert for each clip and step
        x += dt * sum_k p(k | x, t, text) expert_k(x, t, text)

    python -m examples.two_experts                     # less than two minutes on two cores; see --help

Networks, losses, routing and sampler are those that a swarm trains and samples with.
Legend: B clips, C T H W frames of pixels (no codec here), L text tokens, D their width. t = 1 is noise.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

from paris_p2p.data.batches import Batch
from paris_p2p.device import pick_device
from paris_p2p.flow.condition import Condition
from paris_p2p.flow.guidance import guided_velocity
from paris_p2p.flow.mixture import Routing
from paris_p2p.flow.path import logit_normal
from paris_p2p.flow.sampler import sample, time_grid
from paris_p2p.generation.routed import Chooser, ExpertSeats
from paris_p2p.model.presets import build_expert, build_router, expert_config, router_config
from paris_p2p.spec import LatentShape, TextShape
from paris_p2p.training.objective import expert_losses, router_losses

LATENT = LatentShape(channels=1, frames=4, height=12, width=12)
TEXT = TextShape(tokens=1, dim=10, pooled_dim=10)  # the caption is the digit, one-hot
SIZES = {"width": 64, "depth": 3, "heads": 4, "patch_height": 3, "patch_width": 3}
EXPERT = {**expert_config("nano", LATENT, TEXT), **SIZES}
ROUTER = router_config("nano", LATENT, TEXT, experts=2)
BATCH_CLIPS, LEARNING_RATE, NO_CAPTION = 32, 2e-3, 0.1
SAMPLING_STEPS, GUIDANCE, ENLARGED = 25, 2.0, 4
Losses = Callable[[nn.Module, Batch, Tensor], Tensor]  # of each clip: [B]


def moving_digits() -> tuple[Tensor, Tensor, Tensor]:
    """Returns clips [N C T H W] in -1 to 1, their digits [N], and clusters [N]: 0-4 go right, 5-9 fall."""
    images, digits = load_digits(return_X_y=True)
    clips = torch.full((len(images), *LATENT.shape), -1.0)
    for clip, image, digit in zip(clips, images.reshape(-1, 8, 8), digits, strict=True):
        for frame in range(LATENT.frames):
            top, left = (2, frame + 1) if digit < 5 else (frame + 1, 2)
            clip[0, frame, top : top + 8, left : left + 8] = torch.from_numpy(image / 8 - 1)
    return clips, torch.from_numpy(digits), torch.from_numpy(digits >= 5).long()


def caption(digits: Tensor) -> Condition:
    """Returns what the networks are told: tokens [B 1 D], a mask [B 1] of those there, pooled text [B D]."""
    pooled = nn.functional.one_hot(digits, TEXT.dim).float()
    return Condition(pooled[:, None], torch.ones(len(digits), 1, dtype=torch.bool), pooled)


def draw(clips: Tensor, digits: Tensor, clusters: Tensor) -> Batch:
    """Returns a batch of clips, with their noise and what decides their times."""
    rows = torch.randint(len(clips), (BATCH_CLIPS,))
    told = caption(digits[rows])
    return Batch(
        first_clip=0,
        latent=clips[rows],
        tokens=told.tokens,
        mask=told.mask & (torch.rand(BATCH_CLIPS, 1) > NO_CAPTION),  # guidance needs to know both
        pooled=told.pooled,
        cluster=clusters[rows],
        noise=torch.randn(BATCH_CLIPS, *LATENT.shape),
        normal=torch.randn(BATCH_CLIPS, dtype=torch.float64),
        uniforms=torch.rand(BATCH_CLIPS, 4, dtype=torch.float64),
    )


def train(name: str, network: nn.Module, data: tuple[Tensor, ...], losses: Losses, steps: int) -> list[float]:
    """Trains a network on its data, and returns the loss of each step."""
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, steps)
    seen = []
    for step in range(steps):
        batch = draw(*data)
        t = logit_normal(batch.normal, mean=0.0, std=1.0).float()  # [B]
        loss = losses(network, batch, t).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        seen.append(loss.item())
        if (step + 1) % max(1, steps // 5) == 0:
            print(f"{name}: step {step + 1}, loss {np.mean(seen[-steps // 5 :]):.3f}", flush=True)
    return seen


def generate(experts: list[nn.Module], router: nn.Module, digits: Tensor) -> tuple[Tensor, Tensor]:
    """Returns clips [B C T H W] of these digits, and the expert that made each step of each [B S]."""
    pool = ExpertSeats(EXPERT, lambda k: experts[k].state_dict(), pick_device("cpu"), seats=2)
    route = Chooser(router, len(experts), range(len(experts)), Routing("top_k", top_k=1))
    velocity = guided_velocity("per_expert", pool, route, caption(digits), GUIDANCE)
    clips = sample(velocity, torch.randn(len(digits), *LATENT.shape), time_grid(SAMPLING_STEPS))
    return clips, route.chosen(SAMPLING_STEPS).argmax(2)


def sheet(real: Tensor, made: Tensor) -> Image.Image:
    """Returns a picture with a row for each digit: the frames of a real clip, then of one that was made."""
    strips = [torch.cat([*clips[:, 0].transpose(0, 1)], dim=2) for clips in (real, made)]  # [B H T*W]
    rows = torch.cat([strips[0], torch.ones(*strips[0].shape[:2], 2), strips[1]], 2).flatten(0, 1)
    pixels = ((rows.clamp(-1, 1) + 1) * 127.5).byte().numpy()
    return Image.fromarray(pixels).resize((pixels.shape[1] * ENLARGED, pixels.shape[0] * ENLARGED), 0)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.two_experts")
    parser.add_argument("--steps", type=int, default=500, help="optimizer steps of each network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("two-experts.png"), help="the picture")
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)  # networks this small lose more to threads than they gain
    torch.manual_seed(arguments.seed)
    clips, digits, clusters = data = moving_digits()
    experts = [build_expert(EXPERT) for _ in range(2)]
    for k, expert in enumerate(experts):  # each could be on another continent
        own = tuple(tensor[clusters == k] for tensor in data)
        train(
            f"expert {k}",
            expert,
            own,
            lambda e, batch, t: expert_losses(e, batch, t, batch.mask),
            arguments.steps,
        )
    router = build_router(ROUTER)
    train("router", router, data, router_losses, arguments.steps)
    asked = torch.arange(10)
    made, chosen = generate(experts, router, asked)
    print(f"routed right in {(chosen == (asked[:, None] >= 5)).float().mean():.1%} of the sampling steps")
    real = torch.stack([clips[digits == digit][0] for digit in asked])
    sheet(real, made).save(arguments.out)
    print(f"real clips on the left, made ones on the right: {arguments.out}")


if __name__ == "__main__":
    main()
