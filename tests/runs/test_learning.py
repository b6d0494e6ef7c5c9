"""Tests networks, path, routing and sampler together: what was trained comes out."""

import pytest
import torch
from torch import Tensor

from paris_p2p.device import pick_device
from paris_p2p.flow.condition import Condition
from paris_p2p.flow.ddpm import diffuse
from paris_p2p.flow.guidance import guided_velocity
from paris_p2p.flow.mixture import Routing
from paris_p2p.flow.path import clip_losses, interpolate, logit_normal, velocity
from paris_p2p.flow.sampler import sample, time_grid
from paris_p2p.generation.routed import Chooser, ExpertSeats, clip_noise
from paris_p2p.model.presets import build_expert, build_router, expert_config, router_config
from paris_p2p.spec import LatentShape, TextShape

LATENT, TEXT = LatentShape(channels=2, frames=2, height=4, width=4), TextShape(tokens=2, dim=8, pooled_dim=8)
BATCH, STEPS = 32, 250


@pytest.mark.parametrize("ddpm", [(), (0,)], ids=["velocity", "one of noise"])
def test_experts_trained_apart_and_a_router_make_the_clip_that_the_text_names(ddpm: tuple[int, ...]):
    torch.manual_seed(0)
    # clips 0, 1 are cluster 0's, and 2, 3 cluster 1's
    clips, words = torch.randn(4, *LATENT.shape), torch.randn(4, 8)
    experts = [
        train_expert(clips[k * 2 : k * 2 + 2], words[k * 2 : k * 2 + 2], predicts_noise=k in ddpm)
        for k in range(2)
    ]
    router = train_router(clips, words)
    pool = ExpertSeats(experts[0].config_numbers, lambda k: experts[k].state, pick_device("cpu"), 2, ddpm)
    chooser = Chooser(router, 2, [0, 1], Routing("top_k"))
    condition = Condition(words[:, None].repeat(1, 2, 1), torch.ones(4, 2, dtype=torch.bool), words)
    made = sample(
        guided_velocity("per_expert", pool, chooser, condition, 1.5),
        clip_noise(0, range(4), LATENT.shape),
        time_grid(16),
    )
    nearest = torch.cdist(made.flatten(1), clips.flatten(1)).argmin(1)
    assert nearest.tolist() == [0, 1, 2, 3]
    assert chooser.chosen(16)[:, -1].argmax(1).tolist() == [0, 0, 1, 1]
    assert (made - clips).square().mean() < 0.2


class Trained:
    def __init__(self, config_numbers, network):
        self.config_numbers, self.state = config_numbers, dict(network.named_parameters())


def batch(clips: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns which clip, its noise, time and x_t."""
    which, noise = torch.randint(len(clips), (BATCH,)), torch.randn(BATCH, *LATENT.shape)
    t = logit_normal(torch.randn(BATCH), 0.0, 1.0)
    return which, noise, t, interpolate(clips[which], noise, t)


def train_expert(clips: Tensor, words: Tensor, *, predicts_noise: bool) -> Trained:
    config = expert_config("nano", LATENT, TEXT)
    network = build_expert(config)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(STEPS):
        which, noise, t, x_t = batch(clips)
        mask = (torch.rand(BATCH) > 0.1)[:, None].expand(-1, 2)
        target = velocity(clips[which], noise)
        if predicts_noise:
            t = torch.rand(BATCH)
            x_t, target = diffuse(clips[which], noise, t), noise
        loss = clip_losses(network(x_t, t, words[which][:, None].expand(-1, 2, -1), mask), target).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Trained(config, network.requires_grad_(False))


def train_router(clips: Tensor, words: Tensor):
    network = build_router(router_config("nano", LATENT, TEXT, 2))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(STEPS // 2):
        which, _, t, x_t = batch(clips)
        loss = torch.nn.functional.cross_entropy(network(x_t, t, words[which]), which // 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network
