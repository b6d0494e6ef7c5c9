"""diffusers' schedulers as solvers of the flow."""

import diffusers
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from paris_p2p.errors import UsageError
from paris_p2p.flow.sampler import STEPS, time_grid
from paris_p2p.generation.pipeline_folder import SCHEDULER_CLASSES
from paris_p2p.generation.schedulers import SCHEDULERS, make_scheduler, plan, shift_of, solver_of

# away from pure noise and from data, where the multistep schedulers take other steps; they start at 0.9995
TOLERANCE = 0.02


def walked(solver, velocity, x: torch.Tensor) -> torch.Tensor:
    for t, until in zip(solver.times[:-1], solver.times[1:], strict=True):
        x = solver.step(velocity, x, t, until)
    return x


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_every_scheduler_walks_from_noise_to_data(name, steps):
    scheduler = make_scheduler(name, 2.0)
    assert shift_of(scheduler) == 2.0
    solver = solver_of(scheduler, steps)
    assert len(solver.times) == steps + 1
    assert solver.times[0] == pytest.approx(1, abs=1e-3)
    assert solver.times[-1] == 0
    assert solver.times == sorted(solver.times, reverse=True)
    if steps > 1:
        assert solver.times[1] == pytest.approx(time_grid(steps, 2.0)[1], abs=1e-3)


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name != "dpm++sde"])
def test_on_a_straight_path_every_scheduler_lands_at_the_data(name):
    x0, eps = torch.randn(2, 3, 2, 4, 4), torch.randn(2, 3, 2, 4, 4)
    landed = walked(solver_of(make_scheduler(name, 1.0), 6), lambda x, t: eps - x0, eps)
    torch.testing.assert_close(landed, x0, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name not in ("euler", "dpm++sde")])
def test_higher_orders_are_nearer_to_the_truth_than_euler_in_as_many_steps(name):
    """Of standard normal data and noise, v = (2 t - 1) / ((1 - t)^2 + t^2) x, which ends exactly at x(1)."""

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        rate = (2 * t - 1) / ((1 - t) ** 2 + t**2)
        return rate.reshape(-1, 1) * x

    start = torch.randn(4, 8)
    error = {
        each: float((walked(solver_of(make_scheduler(each, 1.0), 20), velocity, start) - start).abs().max())
        for each in ("euler", name)
    }
    assert error[name] < 0.5 * error["euler"]


def test_flow_matching_schedulers_are_our_own_steps_on_our_own_grid():
    for name in ("euler", "heun"):
        solver = solver_of(make_scheduler(name, 3.0), 7)
        assert solver.times == time_grid(7, 3.0)
        assert solver.step is STEPS[name]
    other = solver_of(FlowMatchEulerDiscreteScheduler(use_exponential_sigmas=True), 7)
    assert other.times != time_grid(7)


def test_a_scheduler_may_serve_many_batches_since_each_has_a_walk_of_its_own():
    scheduler, x = make_scheduler("unipc", 1.0), torch.randn(2, 3)
    one, two = solver_of(scheduler, 3), solver_of(scheduler, 3)
    first = one.step(lambda x, t: -x, x, *one.times[:2])
    assert torch.equal(two.step(lambda x, t: -x, x, *two.times[:2]), first)
    assert scheduler.step_index is None


def test_a_scheduler_is_planned_for_those_who_read_its_times():
    for name in SCHEDULERS:
        scheduler = make_scheduler(name, 1.0)
        plan(scheduler, 4)
        assert float(scheduler.sigmas[0]) == pytest.approx(1, abs=1e-3)


def test_the_classes_that_a_folder_may_name_are_diffusers_own():
    assert {type(make_scheduler(name, 1.0)).__name__ for name in SCHEDULERS} <= set(SCHEDULER_CLASSES)
    assert all(hasattr(diffusers, name) for name in SCHEDULER_CLASSES)


def test_schedulers_for_noise_prediction_are_refused():
    for kind in (diffusers.DDIMScheduler, diffusers.UniPCMultistepScheduler):
        with pytest.raises(UsageError, match=f"the scheduler {kind.__name__} is not set up for flows"):
            solver_of(kind(), 4)
