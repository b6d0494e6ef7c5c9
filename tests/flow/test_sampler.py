"""Tests time grids and steps."""

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from paris_p2p.flow.path import velocity
from paris_p2p.flow.sampler import STEPS, sample, time_grid


def test_the_grid_goes_from_noise_to_data():
    assert time_grid(4) == [1.0, 0.75, 0.5, 0.25, 0.0]
    shifted = time_grid(4, shift=3.0)
    assert (shifted[0], shifted[-1]) == (1.0, 0.0)
    assert shifted[2] == pytest.approx(0.75)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("steps", [1, 7])
def test_on_a_straight_path_every_step_lands_exactly(step, steps):
    x0, eps = torch.randn(2, 3, 2, 4, 4), torch.randn(2, 3, 2, 4, 4)
    torch.testing.assert_close(
        sample(lambda x, t: velocity(x0, eps), eps, time_grid(steps, 2.0), step), x0, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(("steps", "shift"), [(1, 1.0), (10, 1.0), (50, 3.0)])
def test_euler_is_diffusers_flow_match_scheduler(steps, shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps).tolist())
    torch.testing.assert_close(torch.tensor(time_grid(steps, shift)), scheduler.sigmas)
    weight = torch.randn(4, 4)

    def field(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x @ weight) * t.reshape(-1, 1)

    start = torch.randn(3, 4)
    x = start
    for timestep in scheduler.timesteps:
        x = scheduler.step(field(x, (timestep / 1000).expand(3)), timestep, x).prev_sample
    torch.testing.assert_close(sample(field, start, time_grid(steps, shift)), x, rtol=1e-4, atol=1e-5)


def test_heun_is_second_order_and_euler_first():
    def error(step: str, steps: int) -> float:
        """Integrates dx/dt = x from x(1) = 1, away from the last step, which is Euler's for both."""
        times = [1 - 0.5 * index / steps for index in range(steps + 1)]
        return float(
            (sample(lambda x, t: x, torch.ones(1, dtype=torch.float64), times, step) - np.exp(-0.5)).abs()
        )

    assert error("euler", 10) / error("euler", 20) == pytest.approx(2, rel=0.1)
    assert error("heun", 10) / error("heun", 20) == pytest.approx(4, rel=0.1)


def test_progress_is_reported_after_each_step():
    seen: list[int] = []
    sample(lambda x, t: x, torch.ones(1), time_grid(3), report=seen.append)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize(("steps", "shift"), [(0, 1.0), (4, 0.0)])
def test_no_steps_or_no_shift_is_refused(steps, shift):
    with pytest.raises(ValueError, match="must be positive"):
        time_grid(steps, shift)
