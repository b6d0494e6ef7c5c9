"""Lists the jobs of a stage and does them: rates first, then cells; what has a result is not done again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from bench.ddm_vs_monolith.results import Clock, commit, processor, rounded
from bench.when_experts_win.arms import Arms
from bench.when_experts_win.digits import splits
from bench.when_experts_win.judge import Judge, trained_judge
from bench.when_experts_win.measuring import measured
from bench.when_experts_win.recorded import require_protocol
from bench.when_experts_win.settings import Cell, Stage, stage_of
from bench.when_experts_win.trials import chosen_rates, try_rates
from paris_p2p.disk import write_atomic
from paris_p2p.errors import UsageError


@dataclass(frozen=True)
class Job:
    """Names one piece of work of a stage, and the file that holds what came of it."""

    stage: str
    name: str
    width: int
    cell: Cell | None = None  # None for the rates of a width

    def path(self, results: Path) -> Path:
        return results / self.stage / f"{self.name}.json"


def jobs_of(name: str) -> list[list[Job]]:
    """Returns a stage's jobs in groups; a group waits for the one before it."""
    stage = stage_of(name)
    rates = [Job(name, f"rates-{width}-wide", width) for width in stage.widths]
    return [rates, [Job(name, cell.name, cell.width, cell) for cell in stage.cells]]


def open_jobs(name: str, results: Path, seeds: Collection[int]) -> Iterator[list[Job]]:
    """Yields the jobs of each group that have no result yet; of cells those of these seeds, all if none."""
    for group in jobs_of(name):
        wanted = [job for job in group if job.cell is None or not seeds or job.cell.seed in seeds]
        yield [job for job in wanted if not job.path(results).exists()]


def run(
    name: str,
    results: Path,
    at_once: int,
    seeds: Collection[int] = (),
    told: Callable[[str], None] = print,
) -> None:
    """Does what is open, `at_once` jobs side by side, each on one thread."""
    for group in open_jobs(name, results, seeds):
        if at_once == 1:
            for job in group:
                told(do(job, results))
            continue
        with ProcessPoolExecutor(at_once, mp_context=get_context("spawn")) as pool:
            for line in pool.map(do, group, [results] * len(group)):
                told(line)


def do(job: Job, results: Path) -> str:
    """Does one job on one thread, leaves its result, and returns a line that says so."""
    torch.set_num_threads(1)
    clock, stage = Clock(), stage_of(job.stage)
    with threadpool_limits(1):  # small matrices: more threads wait for each other, fifty times as long
        if job.cell is None:
            values: dict[str, Any] = {"tried": try_rates(stage, job.width)}
        else:
            values = play(stage, job.cell, rates_of(job.stage, job.width, results))
    document = {
        "job": job.name,
        "protocol_sha256": require_protocol(),
        "commit": commit(),
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "date": time.strftime("%Y-%m-%d"),
        "cpu_s": round(clock.cpu_s, 1),
        **rounded(values),
    }
    path = job.path(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(document, indent=1) + "\n")
    return f"{job.name}: {document['cpu_s']} s of processor time"


def play(stage: Stage, cell: Cell, rates: dict[str, float]) -> dict[str, Any]:
    """Trains a cell's arms and measures them."""
    train_on, _ = splits()
    trained = Arms(stage, cell, train_on, rates).train()
    return {
        "parameters": {arm: pool.shape.parameters for arm, pool in trained.pools.items()},
        "images": trained.images,
        "operations": trained.operations,
        "rates": rates,
        **measured(stage, cell, trained, the_judge()),
    }


@cache
def the_judge() -> Judge:
    """Returns the judge, which a process trains once."""
    return trained_judge(splits()[0])


def rates_of(stage: str, width: int, results: Path) -> dict[str, float]:
    """Returns the rates that a width's trials chose; UsageError where they were not tried."""
    path = Job(stage, f"rates-{width}-wide", width).path(results)
    try:
        return chosen_rates(json.loads(path.read_text())["tried"])
    except FileNotFoundError as error:
        raise UsageError(f"{path} is not here: the rates of that width are tried first") from error
