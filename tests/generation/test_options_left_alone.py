"""Options that nobody asked for change no byte of the latents.

The experts here are sums and products of numbers that every machine rounds alike, so that what was computed
before these options were there is known by its hash.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from paris_p2p.device import pick_device
from paris_p2p.flow.condition import Condition
from paris_p2p.flow.mixture import Routing
from paris_p2p.flow.sampler import STEPS, time_grid
from paris_p2p.generation.engine import Denoising, Engine, Mixture
from paris_p2p.generation.schedulers import Solver
from paris_p2p.generation.wishes import Wishes

CLIPS, EXPERTS = 5, 4
LATENT = (2, 3, 2, 2)
HEUN_UNIFORM_EXACT = "09bb495a99bb14dad3378f64203f44d90a5bbf4d2febaeff5ebf9b95be437633"
EULER_SINGLE = "ce22e228df5584828566830ccf18006c6c685caef2deb60013d42517d1d28364"


@dataclass
class RoundExperts:
    """Answers x (k + 1) / 4 + (text + t) / 2."""

    config: dict[str, Any] = field(default_factory=dict)

    def velocity(self, k: int, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        assert condition.pooled is not None
        text = condition.pooled[:, 0] * condition.mask.any(1)
        return x * (0.25 * (k + 1)) + (text + t).reshape(-1, 1, 1, 1, 1) * 0.5


def hash_of(wishes: Wishes, step: str, **more: Any) -> str:
    """Returns the SHA-256 of the latents of five clips after eight steps, in batches of two."""
    latents = (torch.arange(CLIPS * 24, dtype=torch.float32).reshape(CLIPS, *LATENT) % 37 - 18) / 8
    captions = (torch.arange(2 * CLIPS, dtype=torch.float32).reshape(CLIPS, 2) - 4) / 4
    mask = torch.tensor([[True, False]] * CLIPS)
    state = Denoising(latents, Condition(torch.zeros(CLIPS, 2, 3), mask, captions), 3.0, **more)
    pool = cast(Any, RoundExperts())
    mixture = Mixture(pool, None, EXPERTS, list(range(EXPERTS)), wishes)
    engine = Engine(mixture, cast(Any, None), pick_device("cpu"), LATENT, batch_clips=2)
    engine.denoise(state, lambda rows: Solver(time_grid(8), STEPS[step]))
    return hashlib.sha256(state.latents.numpy().tobytes()).hexdigest()


@pytest.mark.parametrize(
    "uniforms", [None, torch.full((CLIPS,), 0.5)], ids=["none drawn", "drawn for nothing"]
)
def test_latents_are_what_they_were_before_the_options(uniforms: Tensor | None) -> None:
    assert hash_of(Wishes(Routing("single", expert=2)), "euler", uniforms=uniforms) == EULER_SINGLE
    assert hash_of(Wishes(Routing("uniform"), "exact"), "heun", uniforms=uniforms) == HEUN_UNIFORM_EXACT


def test_an_interval_of_all_times_changes_nothing_and_one_of_none_turns_guidance_off() -> None:
    def exact(low: float, high: float) -> str:
        return hash_of(Wishes(Routing("uniform"), "exact", (low, high)), "heun")

    assert exact(0.0, 1.0) == HEUN_UNIFORM_EXACT
    never = exact(0.0, 0.0)  # no step is taken from t = 0
    assert never == exact(0.01, 0.02)
    assert len({HEUN_UNIFORM_EXACT, never, exact(1.0, 1.0), exact(0.5, 1.0)}) == 4
