"""Chooses how large a demo a machine can finish: the sizes, what was promised for each, and their speeds.

Everything here is a pure function of what measure.py measured. Times are wall seconds unless they are called
processor seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

EXPERTS = 3
TRAIN_SHARE = 0.75  # of the swarm's processor time
PLANNED = 0.85  # of a bound: what a plan may take, so that a machine that gets slower need not miss it
FAST_BOUND_S, SLOW_BOUND_S = 15 * 60.0, 20 * 60.0
PREPARE_CPU_S_A_CLIP, REST_S, START_S, HAND_OVER_S = (
    0.1,
    60.0,
    40.0,
    60.0,
)  # at the reference speed, on the cores that are free
REFERENCE_PLAIN_S = 0.05  # `Speed.plain_s` where those were measured
LEAST_CORES = 0.25
MEASURED_SLACK = 1.3  # of the processor time a step was measured to take
LEAST_TRAINERS_SHARE = 0.5  # with less it was our own nodes and gates that kept the trainers waiting
BUSY_IDLE_SHARE = 0.15  # a machine that idles less than this has nothing left to give


@dataclass(frozen=True)
class Promise:
    """Says what the judge asks of a size's clips; judge.py says what each means."""

    real_accuracy: float = 0.95
    accuracy: float = 0.80
    chance_slack: float = 0.15  # shuffled prompts must come this near to chance
    liveliness: float = 0.30  # of the real clips' motion and variance, averaged over the scenarios
    liveliness_worst: float = 0.15  # and in the worst of them: lively ones do not make up for a frozen one
    flicker: float = 0.50  # half-way from real clips to real clips with their frames shuffled


@dataclass(frozen=True)
class Size:
    """Says what is trained, for how long, and what was promised for it."""

    name: str
    side_pixels: int
    clips: int  # recorded
    expert: str
    router: str
    steps: int  # of every slot; the learning rate falls to zero over the last half
    batch_clips: int = 8  # 16 in half as many steps take as long, and flicker twice as much
    router_batch_clips: int = 32
    sampling_steps: int = 32
    judged_clips: int = 60
    promise: Promise = Promise()


SIZES = (
    # One training's flicker differs from another's by 0.15 and more (docs/benchmarks.md): limits stand that
    # far above what was seen.
    Size("large", 32, 900, "micro", "micro", 2000, promise=Promise(flicker=0.60)),
    Size("medium", 32, 900, "micro", "nano", 1600, promise=Promise(flicker=0.65)),
    Size("small", 24, 900, "micro", "nano", 1400, promise=Promise(flicker=0.70)),
    Size(
        "tiny", 24, 900, "micro", "nano", 800, judged_clips=48, promise=Promise(accuracy=0.70, flicker=0.90)
    ),
)


@dataclass(frozen=True)
class Speed:
    """Holds a size's training step on this machine, with all trainers at work at once."""

    expert_step_s: float  # processor seconds
    router_step_s: float
    cores: float  # processor seconds that the trainers got in a second, all together
    plain_s: float = (
        0.0  # processor seconds of a fixed piece of float32 work: how slow the machine is apart from bfloat16
    )


@dataclass(frozen=True)
class Plan:
    """Says what this machine shall do, and when it must be over."""

    size: Size
    speed: Speed  # of that size, as last measured
    bound_s: float  # for all of it, after the set-up
    total_s: float  # expected, for all of it
    fits: bool  # False: no size does, and this is the smallest

    @property
    def train_s(self) -> float:
        """Returns expected, from the first node's start to every slot's last step."""
        return train_s(self.size, self.speed)

    def train_until_s(self) -> float:
        """Returns the seconds since the start when training must be over, for the rest to fit into the
        bound.
        """
        return self.bound_s - rest_s(self.size, self.speed)

    def __str__(self) -> str:
        size, speed = self.size, self.speed
        words = (
            f"{size.name}: {size.expert} experts on {size.clips} clips "
            f"of {size.side_pixels} x {size.side_pixels}, "
            f"{size.steps:,} steps of {size.batch_clips} clips a slot"
        )
        rate = size.batch_clips / speed.expert_step_s
        return (
            f"{words}; {rate:.0f} clips a processor second, {speed.cores:.1f} processors free: "
            f"about {self.total_s / 60:.0f} minutes of at most {self.bound_s / 60:.0f}"
        )


def choose(speeds: Mapping[str, Speed], sizes: Sequence[Size] = SIZES, elapsed_s: float = 0.0) -> Plan:
    """Returns the largest size that fits: the largest of all into the fast bound, any other into the slow
    one.

    `sizes` come largest first; `speeds` has each one's by name; `elapsed_s` of the bound are gone already.
    """
    totals = {size.name: elapsed_s + total_s(size, speeds[size.name]) for size in sizes}
    largest, smallest = sizes[0], sizes[-1]
    if totals[largest.name] <= PLANNED * FAST_BOUND_S:
        return Plan(largest, speeds[largest.name], FAST_BOUND_S, totals[largest.name], fits=True)
    for size in sizes:
        if totals[size.name] <= PLANNED * SLOW_BOUND_S:
            return Plan(size, speeds[size.name], SLOW_BOUND_S, totals[size.name], fits=True)
    return Plan(smallest, speeds[smallest.name], SLOW_BOUND_S, totals[smallest.name], fits=False)


def choose_again(
    plan: Plan, speeds: Mapping[str, Speed], elapsed_s: float, sizes: Sequence[Size] = SIZES
) -> Plan:
    """Returns the plan for clips prepared by now, with new speeds: never a larger size, and the bound
    stays.
    """
    at = next(number for number, size in enumerate(sizes) if size.name == plan.size.name)
    alike = [
        size
        for size in sizes[at:]
        if (size.side_pixels, size.clips) == (plan.size.side_pixels, plan.size.clips)
    ]
    for size in alike:
        expected_s = elapsed_s + train_s(size, speeds[size.name]) + rest_s(size, speeds[size.name])
        if expected_s <= plan.bound_s:
            return Plan(size, speeds[size.name], plan.bound_s, expected_s, fits=True)
    return Plan(size, speeds[size.name], plan.bound_s, expected_s, fits=False)


def total_s(size: Size, speed: Speed) -> float:
    """Returns the seconds of clips, training and what comes after it."""
    prepare_s = size.clips * PREPARE_CPU_S_A_CLIP * slowness(speed) / free_cores(speed)
    return prepare_s + train_s(size, speed) + rest_s(size, speed)


def train_s(size: Size, speed: Speed) -> float:
    """Returns the free cores share the work, but no slot is on more than one.

    One of them has no lead for a while.
    """
    shared = training_cpu_s(size, speed) / (free_cores(speed) * TRAIN_SHARE)
    alone = size.steps * speed.expert_step_s / min(1.0, free_cores(speed)) + HAND_OVER_S
    return START_S * slowness(speed) / min(1.0, free_cores(speed)) + max(shared, alone)


def rest_s(size: Size, speed: Speed) -> float:
    """Returns the seconds of fetching, generating, judging and drawing.

    Generating takes a third of a training step's work, twice for guidance.
    """
    clip_steps = size.judged_clips * size.sampling_steps
    return (REST_S * slowness(speed) + clip_steps * speed.expert_step_s / size.batch_clips * 2 / 3) / min(
        1.0, free_cores(speed)
    )


def training_cpu_s(size: Size, speed: Speed) -> float:
    """Returns processor seconds of all steps of all slots."""
    return size.steps * (EXPERTS * speed.expert_step_s + speed.router_step_s)


def slowness(speed: Speed) -> float:
    """Returns how many times longer this machine takes for work that is not training; at least 1."""
    return max(1.0, speed.plain_s / REFERENCE_PLAIN_S)


def free_cores(speed: Speed) -> float:
    return max(LEAST_CORES, speed.cores)


# judging a plan by what came of it


@dataclass(frozen=True)
class Got:
    """Says what the swarm's phase came to."""

    tip_steps: Mapping[str, int]  # of every slot
    steps_made: Mapping[str, int]  # the same with what was lost, by slot
    trainers_cpu_s: float
    idle_share: float  # of all this machine's processors' time, during training
    trainers_share: float = 1.0  # of our own processes' time


def shortfall(plan: Plan, got: Got) -> str:
    """Says in words what is missing; nothing when every slot has its last step."""
    short = [f"{slot} {steps:,}" for slot, steps in got.tip_steps.items() if steps < plan.size.steps]
    return (
        f"of {plan.size.steps:,} steps a slot, {', '.join(short)} were made and signed in time"
        if short
        else ""
    )


def excuse(plan: Plan, got: Got) -> str:
    """Says why an unfinished training is the machine's doing and not ours; nothing when it is ours."""
    if not plan.fits:
        return "this machine is too slow for the smallest size, as measured before it began"
    cost = step_cost(plan, got)
    if cost > MEASURED_SLACK:
        return f"a step took {cost:.2f} of the processor time that was measured: the machine became slower"
    needed_s = training_cpu_s(plan.size, plan.speed)
    ours = got.trainers_share < LEAST_TRAINERS_SHARE
    if got.trainers_cpu_s < needed_s and got.idle_share < BUSY_IDLE_SHARE and not ours:
        return (
            f"the trainers got {got.trainers_cpu_s:.0f} of the {needed_s:.0f} processor seconds they need, "
            "and "
            f"the machine was idle for {got.idle_share:.0%}: other programs, or its host's other guests, "
            "had the rest"
        )
    return ""


def step_cost(plan: Plan, got: Got) -> float:
    """Returns the trainers' processor seconds over those their steps should have taken.

    1 before any was made.
    """
    speed = plan.speed
    planned_s = sum(
        steps * (speed.router_step_s if slot == "router" else speed.expert_step_s)
        for slot, steps in got.steps_made.items()
    )
    return got.trainers_cpu_s / planned_s if planned_s else 1.0
