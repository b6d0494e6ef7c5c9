"""Each step that bench.generate times does what its name says."""

from __future__ import annotations

import torch

from bench.generate import EXPERTS, steps
from bench.train_step import LATENT
from paris_p2p.device import pick_device
from paris_p2p.generation.routed import ExpertSeats


def test_routed_prompts_go_where_the_router_says_and_mixed_ones_to_all_experts(monkeypatch):
    asked: list[int] = []
    velocity = ExpertSeats.velocity
    monkeypatch.setattr(
        ExpertSeats, "velocity", lambda pool, k, *given: asked.append(k) or velocity(pool, k, *given)
    )
    made = steps("nano", "nano", EXPERTS, pick_device("cpu"))
    for name, experts in (("single", 1), ("routed", 1), ("mixed", EXPERTS)):
        asked.clear()
        answer: torch.Tensor = made[name]()
        assert answer.shape == (EXPERTS, *LATENT.shape)
        assert len(set(asked)) == experts, name
