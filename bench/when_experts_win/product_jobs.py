"""Lists the jobs of a stage with the product's networks and does them, many side by side; what has a result
is not done again, and what fails keeps nothing else from being done.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Collection
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from bench.ddm_vs_monolith.results import Clock, commit, processor, rounded
from bench.when_experts_win.product_place import SHARED_RATES, Place, opened, place_clusters
from bench.when_experts_win.product_stages import ProductStage, product_stage_of
from bench.when_experts_win.product_work import WORK
from bench.when_experts_win.recorded import HERE, require_protocol
from paris_p2p.disk import write_atomic

Argument = int | float | str
OF_SEEDS = ("train", "sample", "losses", "looked", "floors")  # kinds whose first argument, if any, is a seed
JUDGING = ("guidance", "sample", "losses", "floors")  # kinds that ask what was looked at


@dataclass(frozen=True)
class Task:
    """Names one piece of work, and what its function in WORK takes."""

    name: str
    kind: str
    arguments: tuple[Argument, ...] = ()


def tasks_of(stage: ProductStage, clusters: int) -> list[list[Task]]:
    """Returns a stage's tasks in groups; a group waits for those before it, for `looked` if it judges."""
    groups, beside = _pilots(stage), _of_sets(stage, "looked")  # which takes long and is needed late
    if stage.seed_share:
        groups.append([_rate("seed", rate) for rate in stage.rates])
        groups.append([*beside, *(_train(seed, "seed", "expert-0") for seed in stage.seeds)])
        beside = []
    groups.append([*beside, *_rates(stage, clusters)])
    groups.append([
        _train(seed, arm, slot)
        for seed in stage.seeds
        for arm in stage.arms
        for slot in _slots(arm, clusters)
    ])  # fmt: skip
    groups.append([
        Task(f"guidance-{arm}-{guidance:g}", "guidance", (arm, guidance))
        for arm in stage.arms
        for guidance in stage.guidances
    ])  # fmt: skip
    return [*groups, _judging(stage)]


def _of_sets(stage: ProductStage, kind: str) -> list[Task]:
    """Returns a task for each set that the stage is played on."""
    if not stage.set_each_seed:
        return [Task(kind, kind)]
    return [Task(f"{kind}-{seed}", kind, (seed,)) for seed in stage.seeds]


def _pilots(stage: ProductStage) -> list[list[Task]]:
    """Returns the tasks that choose a width; none where there is one."""
    if len(stage.widths) == 1:
        return []
    sizes = [(width, times) for width in stage.widths for times in (1, 3)]
    return [
        [
            Task(f"pilot-rate-{width}-{times}-{rate:g}", "pilot_rate", (width, times, rate))
            for width, times in sizes
            for rate in stage.rates
        ],
        [Task(f"pilot-{width}-{times}", "pilot", (width, times)) for width, times in sizes],
    ]


def _rates(stage: ProductStage, clusters: int) -> list[Task]:
    tasks = []
    for arm in stage.arms:
        if arm in SHARED_RATES:
            continue
        for rate in stage.rates:
            if arm == "experts":
                tasks += [_rate(arm, rate, k) for k in range(clusters)]
            else:
                tasks.append(_rate(arm, rate))
    return tasks


def _rate(arm: str, rate: float, expert: int | None = None) -> Task:
    name = f"rate-{arm}-{rate:g}"
    if expert is None:
        return Task(name, "rate", (arm, rate))
    return Task(f"{name}-{expert}", "rate", (arm, rate, expert))


def _train(seed: int, arm: str, slot: str) -> Task:
    return Task(f"train-{seed}-{arm}-{slot}", "train", (seed, arm, slot))


def _slots(arm: str, clusters: int) -> list[str]:
    if arm not in ("experts", "random"):
        return ["expert-0"]
    return [*(["router"] if arm == "experts" else []), *(f"expert-{k}" for k in range(clusters))]


def _judging(stage: ProductStage) -> list[Task]:
    """Returns samplings, the first seed's first, losses and floors."""
    tasks = _of_sets(stage, "floors")
    for seed in stage.seeds:
        tasks.append(Task(f"losses-{seed}", "losses", (seed,)))
        for way in stage.ways:
            if seed == stage.seeds[0] or not way.once:
                name = sample_name(seed, way.title, way.guidance)
                tasks.append(Task(name, "sample", (seed, way.title, way.guidance)))
    return tasks


def sample_name(seed: int, title: str, guidance: float) -> str:
    """Returns the name of a way's job: its title without commas and spaces."""
    name = title.replace(",", "").replace(" ", "-")
    return f"sample-{seed}-{name}" + (f"-at-{guidance:g}" if guidance else "")


def run_stage(
    place: Place,
    at_once: int,
    seeds: Collection[int] = (),
    commit_name: str = "",
    until_s: float = float("inf"),
    told: Callable[[str], None] = print,
) -> int:
    """Does what is open, `at_once` side by side, each on one thread; returns how many tasks failed.

    Nothing is begun after `until_s` seconds. Where each seed has a set of its own, `seeds` is one.
    """
    began_s, failed = time.monotonic(), 0
    stage = product_stage_of(place.stage)
    require_protocol(HERE / stage.protocol)
    groups = tasks_of(stage, place_clusters(place.set))
    if at_once == 1:
        for task in (task for group in groups for task in open_tasks(place, group, seeds)):
            failed += _done(lambda task=task: do(place, task, commit_name), task, told)  # type: ignore[misc]
        return failed
    looking: dict[Future[str], Task] = {}  # begun, and not waited for yet
    with ProcessPoolExecutor(at_once, mp_context=get_context("spawn")) as pool:
        for group in groups:
            if time.monotonic() - began_s > until_s:
                told(f"stopped after {time.monotonic() - began_s:.0f} s, as asked")
                break
            judges = any(task.kind in JUDGING for task in group)
            failed += _waited(looking if judges else {}, told)
            futures = {
                pool.submit(do, place, task, commit_name): task for task in open_tasks(place, group, seeds)
            }
            looking |= {future: task for future, task in futures.items() if task.kind == "looked"}
            failed += _waited({future: futures[future] for future in futures.keys() - looking.keys()}, told)
            if futures:
                told(f"— {len(futures)} tasks, {time.monotonic() - began_s:.0f} s so far")
        failed += _waited(looking, told)
    return failed


def _waited(futures: dict[Future[str], Task], told: Callable[[str], None]) -> int:
    """Tells each task's line as it ends; returns how many failed. Empties `futures`."""
    failed = 0
    for future in as_completed([*futures]):
        failed += _done(future.result, futures.pop(future), told)
    return failed


def _done(result: Callable[[], str], task: Task, told: Callable[[str], None]) -> int:
    """Tells a task's line; returns 1 where it failed, with what went wrong."""
    try:
        told(result())
    except Exception as error:  # noqa: BLE001
        # The outermost frame of a task: the others go on.
        traceback.print_exception(error, limit=-4, file=sys.stderr)
        told(f"{task.name} FAILED: {type(error).__name__}: {str(error)[:200]}")
        return 1
    return 0


def open_tasks(place: Place, group: list[Task], seeds: Collection[int]) -> list[Task]:
    """Returns a group's tasks that have no result yet; of seeds these alone, all if none.

    What is tried once for all seeds is tried on the first seed's set.
    """
    stage = product_stage_of(place.stage)
    first = not seeds or not stage.set_each_seed or stage.seeds[0] in seeds

    def wanted(task: Task) -> bool:
        if task.kind in OF_SEEDS and task.arguments:
            return not seeds or task.arguments[0] in seeds
        return first

    return [task for task in group if wanted(task) and not place.result(task.name).exists()]


def do(place: Place, task: Task, commit_name: str = "") -> str:
    """Does one task on one thread, leaves its result, and returns a line that says so."""
    torch.set_num_threads(1)
    clock = Clock()
    with threadpool_limits(1):
        at = opened(place)
        values = WORK[task.kind](at, *task.arguments)
    document: dict[str, Any] = {
        "job": task.name,
        "protocol_sha256": require_protocol(HERE / at.stage.protocol),
        "set_sha256": at.set_sha256,
        "commit": commit_name or commit(),
        "machine": machine(at.device.cuda),
        "date": time.strftime("%Y-%m-%d"),
        "wall_s": round(clock.wall_s, 1),
        "cpu_s": round(clock.cpu_s, 1),
        **rounded(values),
    }
    path = place.result(task.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(document, indent=1) + "\n")
    return f"{task.name}: {document['wall_s']} s"


def machine(cuda: bool) -> str:
    """Returns what computed: the processor, and the GPU where one did."""
    own = f"{processor()}, {os.cpu_count()} cores"
    return f"{torch.cuda.get_device_name()}; {own}" if cuda else own
