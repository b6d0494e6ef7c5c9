"""Tests the gated skip: nothing at the start, the best linear answer once it is learned, refused if odd."""

from __future__ import annotations

import pytest
import torch

from paris_p2p.errors import RecordError
from paris_p2p.flow.path import interpolate, velocity
from paris_p2p.model.presets import build_expert, count_parameters, expert_config
from paris_p2p.model.time_skip import TimeSkip, best_gate
from paris_p2p.spec import LatentShape, TextShape

LATENT = LatentShape(channels=4, frames=2, height=4, width=4)
TEXT = TextShape(tokens=3, dim=8, pooled_dim=8)


def answer(config: dict[str, int | float | str | bool], gate: float | None = None) -> torch.Tensor:
    torch.manual_seed(3)
    network = build_expert(config)
    if gate is not None:
        assert network.skip is not None
        torch.nn.init.constant_(network.skip.gate.bias, gate)
    generator = torch.Generator().manual_seed(4)
    x_t, tokens = (
        torch.randn(2, *LATENT.shape, generator=generator),
        torch.randn(2, 3, 8, generator=generator),
    )
    mask = torch.ones(2, 3, dtype=torch.bool)
    made: torch.Tensor = network(x_t, torch.tensor([0.2, 0.9]), tokens, mask, tokens[:, 0])
    return made


@pytest.mark.parametrize("preset", ["nano", "mmdit-nano"])
def test_at_the_start_the_network_is_the_one_without_it(preset: str) -> None:
    plain, skips = (expert_config(preset, LATENT, TEXT, time_skip=skip) for skip in (False, True))
    assert "time_skip" not in plain
    assert torch.equal(answer(plain), answer(skips))
    assert count_parameters(skips) - count_parameters(plain) == 257 * 16  # a patch has 16 numbers
    generator = torch.Generator().manual_seed(4)
    x_t = torch.randn(2, *LATENT.shape, generator=generator)
    assert torch.allclose(answer(skips, gate=0.5), answer(plain) + 0.5 * x_t, atol=1e-6)


@pytest.mark.parametrize("variance", [1.0, 0.04])
def test_no_multiple_of_what_is_seen_is_nearer_to_the_velocity_than_the_best_gates(variance: float) -> None:
    x0, eps = torch.tensor([[variance**0.5, 0.0]]), torch.tensor([[0.0, 1.0]])  # alike in no number
    for time in (0.05, 0.3, 0.5, 0.8, 0.95):
        t = torch.tensor([time])
        x_t, v = interpolate(x0, eps, t), velocity(x0, eps)
        fitted = float((x_t * v).sum() / x_t.square().sum())
        assert float(best_gate(t, variance)) == pytest.approx(fitted, abs=1e-5)


def test_gates_can_become_the_best_ones_at_all_times() -> None:
    t = torch.linspace(0, 1, 257)
    skip, patches = TimeSkip(2), torch.ones(len(t), 1, 2)
    optimizer = torch.optim.Adam(skip.parameters(), lr=3e-3)
    wanted = torch.stack([best_gate(t, 1.0), best_gate(t, 0.25)], 1)[:, None]
    for _ in range(500):
        optimizer.zero_grad()
        loss = (skip(torch.zeros_like(patches), patches, t) - wanted).square().mean()
        torch.autograd.backward(loss)
        optimizer.step()
    assert loss.item() < 0.02 * float(wanted.square().mean())


def test_a_config_that_says_something_odd_is_refused() -> None:
    with pytest.raises(RecordError, match="time_skip is '1'"):
        build_expert({**expert_config("nano", LATENT, TEXT), "time_skip": 1})
