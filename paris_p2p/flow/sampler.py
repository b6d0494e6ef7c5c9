"""Goes from noise to data along the flow: a time grid, and Euler or Heun steps over it.

It equals diffusers' FlowMatchEulerDiscreteScheduler with `sigmas = linspace(1, 1/steps, steps)`, whose own
default grid ends at t = 0.001 before 0, which wastes a step.
Legend: B clips, `...` the rest of a clip. t = 1 is noise.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from paris_p2p.flow.path import shifted

Velocity = Callable[[Tensor, Tensor], Tensor]  # (x [B ...], t [B]) -> v [B ...]
Step = Callable[[Velocity, Tensor, float, float], Tensor]


def time_grid(steps: int, shift: float = 1.0) -> list[float]:
    """Returns steps + 1 times from 1 to 0, even but for `shift`."""
    if steps < 1 or shift <= 0:
        raise ValueError(f"{steps} steps with a shift of {shift}: both must be positive")
    even = torch.tensor([1 - index / steps for index in range(steps)], dtype=torch.float64)
    return [*shifted(even, shift).tolist(), 0.0]


def sample(
    velocity: Velocity,
    x: Tensor,
    times: list[float],
    step: str = "euler",
    report: Callable[[int], None] | None = None,
) -> Tensor:
    """Integrates dx/dt = v from times[0] to times[-1]: [B ...] -> [B ...].

    `report` is called with how many steps are done.
    """
    take = STEPS[step]
    for index in range(len(times) - 1):
        x = take(velocity, x, times[index], times[index + 1])
        if report:
            report(index + 1)
    return x


def euler_step(velocity: Velocity, x: Tensor, t: float, until: float) -> Tensor:
    """Takes a step of first order, which is exact where the path is straight."""
    return x + (until - t) * velocity(x, rows_of(t, x)).to(x.dtype)


def heun_step(velocity: Velocity, x: Tensor, t: float, until: float) -> Tensor:
    """Takes a step of second order, with two velocities; the last step is Euler's.

    Source: Karras et al. 2022 (arXiv 2206.00364), Algorithm 1.
    """
    here = velocity(x, rows_of(t, x)).to(x.dtype)
    ahead = x + (until - t) * here
    if until == 0:
        return ahead
    there = velocity(ahead, rows_of(until, x)).to(x.dtype)
    return x + (until - t) * (here + there) / 2


def rows_of(t: float, x: Tensor) -> Tensor:
    """Returns the same time for each clip of x, as networks take it: [B] float32."""
    return torch.full((len(x),), t, dtype=torch.float32, device=x.device)


STEPS: dict[str, Step] = {"euler": euler_step, "heun": heun_step}
