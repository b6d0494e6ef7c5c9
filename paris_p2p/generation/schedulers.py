"""Schedulers by name, and diffusers' scheduler objects as solvers of the flow.

diffusers' Euler and Heun schedulers for flow matching are taken as the names of our own steps
(flow/sampler.py), on our own time grid. Any other that knows flows walks its own grid with its own steps.
Legend: B clips, S steps. t = 1 is noise.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from paris_p2p.errors import UsageError
from paris_p2p.flow.sampler import STEPS, Step, Velocity, rows_of, time_grid

MAX_SHIFT = 100.0


@dataclass(frozen=True)
class Solver:
    """One integration from noise to data; a solver with several steps' memory serves one batch only."""

    times: list[float]  # S + 1 of them, falling from noise
    step: Step


def check_scheduler(name: str) -> None:
    """Raises UsageError when no scheduler has that name."""
    if name not in SCHEDULERS:
        raise UsageError(f"no scheduler is called {name!r}; choose one of {', '.join(SCHEDULERS)}")


def make_scheduler(name: str, shift: float) -> Any:
    """Returns diffusers' scheduler of that name for flows, with its time grid shifted; UsageError."""
    check_scheduler(name)
    return SCHEDULERS[name](shift)


def shift_of(scheduler: Any) -> float:
    """Returns the shift of a scheduler's time grid, under whichever name it keeps it; UsageError for one that
    makes no grid.
    """
    config = scheduler.config
    shift = config["shift"] if "shift" in config else config.get("flow_shift", 1.0)
    if not isinstance(shift, int | float) or not 0 < shift <= MAX_SHIFT:
        raise UsageError(
            f"the scheduler's shift is {str(shift)[:40]}; give one above 0 and at most {MAX_SHIFT:g}"
        )
    return float(shift)


def solver_of(scheduler: Any, steps: int, generators: Sequence[torch.Generator] | None = None) -> Solver:
    """Returns a solver of `steps` steps that does what the scheduler stands for.

    `generators`, one a clip, draw the noise that stochastic schedulers add. UsageError when the scheduler is
    not made for flows.
    """
    name = type(scheduler).__name__
    if _is_ours(scheduler):
        return Solver(time_grid(steps, shift_of(scheduler)), STEPS[_OWN[name]])
    check_flow(scheduler)
    walker = copy.deepcopy(scheduler)
    walker.set_timesteps(steps)
    times = [float(sigma) for sigma in walker.sigmas]
    if len(times) != len(walker.timesteps) + 1:
        raise UsageError(
            f"{name} plans {len(walker.timesteps)} steps at {len(times)} noise levels, which is no single "
            "walk from noise to data; choose another scheduler"
        )
    walker.set_begin_index(0)
    return Solver(times, _walk(walker, generators))


def check_flow(scheduler: Any) -> None:
    """Raises UsageError unless the scheduler knows that a flow's velocity is what it is given."""
    name, config = type(scheduler).__name__, scheduler.config
    if config.get("use_dynamic_shifting"):
        raise UsageError(
            f"the scheduler {name} shifts its times by the size of the clip, which a run does once for all; "
            "make it without use_dynamic_shifting"
        )
    if name in _OWN:
        return
    if not (config.get("use_flow_sigmas") and config.get("prediction_type") == "flow_prediction"):
        raise UsageError(
            f"the scheduler {name} is not set up for flows; make it with {name}.from_config("
            'pipe.scheduler.config, use_flow_sigmas=True, prediction_type="flow_prediction", '
            f"flow_shift={shift_of(scheduler):g})"
        )


def plan(scheduler: Any, steps: int) -> None:
    """Sets the scheduler's own `timesteps` and `sigmas`, for callbacks that read them."""
    if _is_ours(scheduler) and _OWN[type(scheduler).__name__] == "euler":
        scheduler.set_timesteps(sigmas=[1 - index / steps for index in range(steps)])
    else:
        scheduler.set_timesteps(steps)


def _is_ours(scheduler: Any) -> bool:
    """Whether the scheduler's steps are our own, on our own time grid."""
    return type(scheduler).__name__ in _OWN and not any(map(scheduler.config.get, _OTHER_GRIDS))


def _walk(walker: Any, generators: Sequence[torch.Generator] | None) -> Step:
    """Returns the scheduler's own step, which counts where it is."""
    timesteps = iter(walker.timesteps)
    extra: dict[str, Any] = {}
    if generators is not None and "generator" in inspect.signature(walker.step).parameters:
        extra["generator"] = list(generators)

    def step(velocity: Velocity, x: Tensor, t: float, until: float) -> Tensor:
        v = velocity(x, rows_of(t, x)).to(x.dtype)
        moved: Tensor = walker.step(v, next(timesteps), x, return_dict=False, **extra)[0]
        return moved.to(x.dtype)

    return step


def _flow(kind: str, **options: Any) -> Callable[[float], Any]:
    def make(shift: float) -> Any:
        import diffusers  # takes seconds: only when clips are made

        return getattr(diffusers, kind)(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=shift, **options
        )

    return make


def _flow_match(kind: str) -> Callable[[float], Any]:
    def make(shift: float) -> Any:
        import diffusers

        return getattr(diffusers, kind)(shift=shift)

    return make


SCHEDULERS: dict[str, Callable[[float], Any]] = {
    "euler": _flow_match("FlowMatchEulerDiscreteScheduler"),
    "heun": _flow_match("FlowMatchHeunDiscreteScheduler"),
    "unipc": _flow("UniPCMultistepScheduler"),
    "dpm++": _flow("DPMSolverMultistepScheduler"),
    "dpm++sde": _flow("DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++"),
    "dpm++single": _flow("DPMSolverSinglestepScheduler", lower_order_final=True),
}
_OWN = {"FlowMatchEulerDiscreteScheduler": "euler", "FlowMatchHeunDiscreteScheduler": "heun"}
# options of the flow matching schedulers that make another grid, or other steps
_OTHER_GRIDS = (
    "use_dynamic_shifting", "invert_sigmas", "shift_terminal", "use_karras_sigmas", "use_exponential_sigmas",
    "use_beta_sigmas", "stochastic_sampling",
)  # fmt: skip
