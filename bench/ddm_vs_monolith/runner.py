"""Runs the comparison: each job once, some processes side by side, and what is done is not done again.

for job in graph(scale):                       # data, known, trial, train, guidance, networks, test, sample
    wait until the jobs that it builds on are done
    values, arrays = KINDS[job.kind](bench)    # in a process of its own
    results/<scale>/<job>.npz, .json = arrays, values      # the JSON file last: then the job is done
the report is made from the results alone (report.py)
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from bench.ddm_vs_monolith.data import Bench, make_data
from bench.ddm_vs_monolith.features_job import known_job, test_job
from bench.ddm_vs_monolith.jobs import Job, chosen, graph, guidance_trials, ready, trials
from bench.ddm_vs_monolith.networks_job import networks_job
from bench.ddm_vs_monolith.results import Clock, require_protocol
from bench.ddm_vs_monolith.sample_job import guidance_job, sample_job
from bench.ddm_vs_monolith.train_job import train_job, trial_job
from paris_p2p.errors import UsageError

POLL_S = 0.5
Outcome = dict[str, Any] | tuple[dict[str, Any], dict[str, NDArray[Any]]]


def run_job(bench: Bench, name: str) -> None:
    """Runs one job here and writes its result; UsageError for a name that is not in the graph."""
    job = next((job for job in graph(bench.scale) if job.name == name), None)
    if job is None:
        raise UsageError(f"{bench.scale.name} has no job {name}; `plan {bench.scale.name}` lists them")
    bench.work.mkdir(parents=True, exist_ok=True)
    clock = Clock()
    outcome = KINDS[job.kind](bench, job.words)
    values, arrays = outcome if isinstance(outcome, tuple) else (outcome, None)
    bench.results.write(name, values, clock, arrays)


def _loss(bench: Bench) -> Callable[[str], float]:
    return lambda name: float(bench.results.values(name)["loss"])


def _train(bench: Bench, words: list[str]) -> Outcome:
    arm, rng_seed, slot = words
    return train_job(bench, arm, int(rng_seed), slot, chosen(trials(bench.scale, arm), _loss(bench)))


def _sample(bench: Bench, words: list[str]) -> Outcome:
    arm, rng_seed, name = words
    return sample_job(
        bench, arm, int(rng_seed), name, chosen(guidance_trials(bench.scale, arm), _loss(bench))
    )


KINDS: dict[str, Callable[[Bench, list[str]], Outcome]] = {
    "data": lambda bench, words: make_data(bench),
    "known": lambda bench, words: known_job(bench),
    "test": lambda bench, words: test_job(bench),
    "trial": lambda bench, words: trial_job(bench, words[0], float(words[1])),
    "train": _train,
    "guidance": lambda bench, words: guidance_job(bench, words[0], float(words[1])),
    "networks": lambda bench, words: networks_job(bench, words[0], int(words[1])),
    "sample": _sample,
}


@dataclass
class Runner:
    """Starts what is ready, in the graph's order, and notes what came of it."""

    bench: Bench
    work_root: Path
    results_root: Path
    processes: int
    running: dict[str, tuple[subprocess.Popen[bytes], float]] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)

    def run(self, only: str = "") -> bool:
        """Runs all jobs, or those whose names begin with `only` and what they wait for.

        Returns whether all are done.
        """
        require_protocol()
        jobs = needed(graph(self.bench.scale), only)
        began_s = time.monotonic()
        try:
            while True:
                done = {job.name for job in jobs if self.bench.results.has(job.name)}
                todo = ready(jobs, done, set(self.running), self.failed)
                for job in todo[: self.processes - len(self.running)]:
                    self._start(job)
                if not self.running:
                    break
                time.sleep(POLL_S)
                self._reap(len(jobs), began_s)
        finally:
            for process, _ in self.running.values():
                process.terminate()
        return all(self.bench.results.has(job.name) for job in jobs)

    def _start(self, job: Job) -> None:
        threads = str(self.bench.threads)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
        }
        command = [
            sys.executable,
            "-m",
            "bench.ddm_vs_monolith",
            "job",
            self.bench.scale.name,
            job.name,
            "--threads",
            threads,
        ]
        command += ["--work", str(self.work_root), "--results", str(self.results_root)]
        log = self._log(job.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            self.running[job.name] = (
                subprocess.Popen(command, stdout=file, stderr=file, env=environment),
                time.monotonic(),
            )

    def _reap(self, jobs: int, began_s: float) -> None:
        for name, (process, started_s) in list(self.running.items()):
            if process.poll() is None:
                continue
            del self.running[name]
            took_s, now_s = time.monotonic() - started_s, time.monotonic() - began_s
            if process.returncode == 0 and self.bench.results.has(name):
                print(f"[{now_s / 60:5.1f} min] {name}: {took_s:.0f} s", flush=True)
            else:
                self.failed.add(name)
                print(
                    f"[{now_s / 60:5.1f} min] {name} FAILED after {took_s:.0f} s, see {self._log(name)}",
                    flush=True,
                )

    def _log(self, name: str) -> Path:
        return self.bench.work / "logs" / f"{name.replace('/', '.')}.log"


def needed(jobs: list[Job], only: str) -> list[Job]:
    """Returns the jobs whose names begin with `only`, and all that they wait for."""
    by_name = {job.name: job for job in jobs}
    wanted: set[str] = set()
    waiting = [job.name for job in jobs if job.name.startswith(only)]
    if not waiting:
        raise UsageError(f"no job's name begins with {only!r}")
    while waiting:
        name = waiting.pop()
        if name not in wanted:
            wanted.add(name)
            waiting += by_name[name].after
    return [job for job in jobs if job.name in wanted]
