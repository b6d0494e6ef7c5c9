"""Lists the jobs and what each waits for; every job can be resumed and leaves one result.

data -> known, trial/* -> train/* -> guidance/*, networks/* -> sample/*; test waits for known, and the
protocol for test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.ddm_vs_monolith.settings import Arm, Scale

ROUTER_SLOT = "router"


@dataclass(frozen=True)
class Job:
    """Describes one process's work; `name` is its result's name too."""

    name: str
    after: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return self.name.partition("/")[0]

    @property
    def words(self) -> list[str]:
        return self.name.split("/")[1:]


def slots(scale: Scale, arm: Arm) -> tuple[str, ...]:
    if arm.partition == "union":
        return ("expert-0",)
    return (*(f"expert-{k}" for k in range(scale.experts)), ROUTER_SLOT)


def trials(scale: Scale, arm: str) -> dict[float, str]:
    """Returns learning rate -> the job that tries it."""
    return {rate: f"trial/{arm}/{rate:g}" for rate in scale.learning_rates}


def guidance_trials(scale: Scale, arm: str) -> dict[float, str]:
    return {guidance: f"guidance/{arm}/{guidance:g}" for guidance in scale.guidances}


def graph(scale: Scale) -> list[Job]:
    """Returns all jobs of a scale, those first that others wait for longest."""
    jobs = [Job("data"), Job("known", ("data",))]
    for arm in scale.arms:
        jobs += [Job(name, ("data",)) for name in trials(scale, arm.name).values()]
    for rng_seed in scale.rng_seeds:
        for arm in scale.arms:
            tried = tuple(trials(scale, arm.name).values())
            jobs += [Job(f"train/{arm.name}/{rng_seed}/{slot}", tried) for slot in slots(scale, arm)]
    tuned: list[Job] = []
    for arm in scale.arms:
        trained = _trained(scale, arm, scale.rng_seeds[0])
        tuned += [Job(name, (*trained, "known")) for name in guidance_trials(scale, arm.name).values()]
    # components are fitted on what the trials made, too
    jobs += [*tuned, Job("test", ("known", *(job.name for job in tuned)))]
    for rng_seed in scale.rng_seeds:
        jobs += [Job(f"networks/{arm.name}/{rng_seed}", _trained(scale, arm, rng_seed)) for arm in scale.arms]
        for row in scale.samplings:
            if rng_seed not in scale.seeds_of(row):
                continue
            arm = scale.arm(row.arm)
            jobs.append(
                Job(
                    f"sample/{arm.name}/{rng_seed}/{row.name}",
                    (*_trained(scale, arm, rng_seed), "test"),
                )
            )
    return jobs


def ready(jobs: list[Job], done: set[str], running: set[str], failed: set[str]) -> list[Job]:
    """Returns the jobs that may start now, in the graph's order."""
    taken = done | running | failed
    return [job for job in jobs if job.name not in taken and all(name in done for name in job.after)]


def best(values: dict[float, float]) -> float:
    """Returns the setting with the least loss; the smaller one of equals."""
    return min(sorted(values), key=lambda setting: values[setting])


def chosen(names: dict[float, str], loss_of: Callable[[str], float]) -> float:
    return best({setting: loss_of(name) for setting, name in names.items()})


def _trained(scale: Scale, arm: Arm, rng_seed: int) -> tuple[str, ...]:
    return tuple(f"train/{arm.name}/{rng_seed}/{slot}" for slot in slots(scale, arm))
