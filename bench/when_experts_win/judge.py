"""Looks at digits with a network of its own: which digit an image shows, and features to compare images by.

It is trained once, on mapped images of the split to train on, and is the same for every cell.
Legend: B images, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.when_experts_win.digits import PIXELS, Digits

FEATURES = 32
WIDTH, STEPS, BATCH, RATE = 128, 1500, 128, 2e-3


@dataclass(frozen=True)
class Judge:
    """Holds what looks at images."""

    body: nn.Module
    head: nn.Module

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Returns features before the last layer: [B 64] -> [B 32]."""
        return self.body(images)  # type: ignore[no-any-return]

    @torch.no_grad()
    def digits(self, images: Tensor) -> Tensor:
        """Returns the digit that each image shows: [B 64] -> [B]."""
        return self.head(self.body(images)).argmax(1)  # type: ignore[no-any-return]


def trained_judge(digits: Digits) -> Judge:
    """Returns a judge that learned from these images."""
    rng = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = nn.Sequential(nn.Linear(PIXELS, WIDTH), nn.SiLU(), nn.Linear(WIDTH, FEATURES), nn.SiLU())
        head = nn.Linear(FEATURES, 10)
    network = nn.Sequential(body, head)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, fused=True)
    for step in range(STEPS):
        images, rows = digits.any(BATCH, rng)
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(network(images), digits.digits[rows]).backward()
        optimizer.step()
    return Judge(body, head)
