"""Measures what a gate takes of a processor: to start, and for each card that it checks.

    python -m bench.gate_share --preset tiny --clips 64

A run of random clips is made in a temporary folder, a trainer makes a checkpoint of its first expert, and a
gate's process checks it as an attestor has it checked, beside the reference that every card but a slot's
first has: once in each of `--starts` new processes, and again `--cards` times in the last of them. Told are
seconds of processor time (user and system), medians, and what an attestor's cards come to as a share of one
core where each of `--slots` slots makes a card an interval and a card needs one of `--attestors`: at worst
every card starts a process, at best none does. Memory is that of the process after its last card, as the
kernel counts it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from bench.bare_run import bare_run
from paris_p2p.data.shards import Sample, write_shards
from paris_p2p.identity import Identity
from paris_p2p.peer.gate_process import GateProcess
from paris_p2p.records import BlobRef
from paris_p2p.spec import GateSpec, LatentShape, RunSpec, ShardRef, TextShape, TimingSpec, sign_run
from paris_p2p.training.messages import CheckpointReady, GateJob, TrainJob, parse_event

LATENT = LatentShape(channels=16, frames=8, height=8, width=8)
TEXT = TextShape(tokens=32, dim=384, pooled_dim=384)
SLOT = "expert-0"
TRAIN_CLIPS = 16
DEMO_INTERVAL_S = 70.0  # docs/benchmarks.md: a seventh of what the demo's training takes
SHARD_BYTES = 256 << 20


@dataclass(frozen=True)
class Costs:
    """Seconds of a processor: of a new process with its first card, and of each card that it checks then."""

    first_s: tuple[float, ...]
    next_s: tuple[float, ...]
    memory_mib: tuple[float, float]  # resident, proportional


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--preset", default="tiny", help="of the expert")
    parser.add_argument("--clips", type=int, default=GateSpec().clips, help="that a card is measured on")
    parser.add_argument("--starts", type=int, default=3, help="processes that are started")
    parser.add_argument("--cards", type=int, default=3, help="cards that the last of them checks besides")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--attestors", type=int, default=5)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gate-share-") as folder:
        costs = asyncio.run(measured(made_job(Path(folder), wanted.preset, wanted.clips), wanted))
    print(json.dumps(told(costs, wanted.slots / wanted.attestors), indent=1))


def told(costs: Costs, cards: float) -> dict[str, float]:
    """Returns what is printed: `cards` is how many of them the attestor checks an interval."""
    first_s, next_s = statistics.median(costs.first_s), statistics.median(costs.next_s)
    found = {"first_card_s": first_s, "next_card_s": next_s}
    for name, interval_s in (("default", TimingSpec().checkpoint_s), ("demo", DEMO_INTERVAL_S)):
        for when, card_s in (("worst", first_s), ("best", next_s)):
            found[f"{name}_{when}_share"] = cards * card_s / interval_s
    found |= {"resident_mib": costs.memory_mib[0], "proportional_mib": costs.memory_mib[1]}
    found["load_average"] = os.getloadavg()[0]
    return {name: round(value, 4 if name.endswith("share") else 2) for name, value in found.items()}


async def measured(job: GateJob, wanted: argparse.Namespace) -> Costs:
    """Returns what the job costs in new processes, and in one that is there."""
    first_s: list[float] = []
    next_s: list[float] = []
    for number in range(wanted.starts):
        gate = GateProcess()
        try:
            first_s.append(await card_s(gate, job))
            more = wanted.cards if number == wanted.starts - 1 else 0
            next_s += [await card_s(gate, job) for _ in range(more)]
            memory = psutil.Process(gate.pid).memory_full_info()
        finally:
            await gate.close()
    return Costs(tuple(first_s), tuple(next_s), (memory.rss / 2**20, memory.pss / 2**20))


async def card_s(gate: GateProcess, job: GateJob) -> float:
    """Returns the processor time of one card, and of the start where it needs one."""
    before_s = 0.0 if gate.pid is None else used_s(gate.pid)
    result = await gate(job)
    if not result.ok or gate.pid is None:
        raise SystemExit(f"the gate refused the card that it was to measure: {result.reason}")
    return used_s(gate.pid) - before_s


def used_s(pid: int) -> float:
    return float(sum(psutil.Process(pid).cpu_times()[:4]))  # its own and its children's


def made_job(folder: Path, preset: str, clips: int) -> GateJob:
    """Returns a job whose card is a checkpoint after one step; its own weights are the best before it."""
    shards = {
        "train": tuple(write_shards(folder / "shards", "train", 0, samples(TRAIN_CLIPS, 1), SHARD_BYTES)),
        "gate": tuple(write_shards(folder / "shards", "gate", 0, samples(2 * clips, 2), SHARD_BYTES)),
    }
    refs = {
        f"{split}_shards": tuple(
            ShardRef(blob=BlobRef(id="0" * 64, size_bytes=each.size_bytes), clips=each.clips, cluster=0)
            for each in made
        )
        for split, made in shards.items()
    }
    run = run_of(preset, clips, refs)
    signed = sign_run(Identity.generate(), run)
    (folder / "run.spec").write_bytes(signed.data)
    paths = {split: tuple(folder / each.path for each in made) for split, made in shards.items()}
    common = {"run": signed.id, "slot": SLOT, "spec_path": folder / "run.spec", "device": "cpu"}

    def of(split: str) -> dict[str, object]:
        return {**common, "shard_paths": paths[split], "shard_clusters": (0,) * len(paths[split])}

    (folder / "out").mkdir()
    ready = trained(
        TrainJob.model_validate(of("train") | {"out_dir": folder / "out", "checkpoint_s": 0, "max_steps": 1})
    )
    made = {name: getattr(ready, name) for name in ("weights_path", "resume_path", "steps", "clips")}
    fields = of("gate") | made | {"card": "12" * 32, "threads": 1, "best_weights_path": ready.weights_path}
    return GateJob.model_validate(fields)


def run_of(preset: str, clips: int, refs: Mapping[str, tuple[ShardRef, ...]]) -> RunSpec:
    return bare_run(LATENT, TEXT, preset, created_at=time.time(), gate=GateSpec(clips=clips), **refs)


def samples(count: int, rng_seed: int) -> Iterable[Sample]:
    """Yields clips of noise: what is in them changes nothing of what a measurement costs."""
    rng = np.random.default_rng(rng_seed)
    for number in range(count):
        yield Sample(
            key=f"{number:06}",
            latent=rng.standard_normal(LATENT.shape).astype(np.float16),
            tokens=rng.standard_normal((TEXT.tokens, TEXT.dim)).astype(np.float16),
            mask=np.ones(TEXT.tokens, np.uint8),
            pooled=rng.standard_normal(TEXT.pooled_dim).astype(np.float16),
            info={"caption": f"clip {number}", "source": "noise", "cluster": 0, "start_frame": 0},
        )


def trained(job: TrainJob) -> CheckpointReady:
    """Returns the checkpoint of a trainer in a process of its own."""
    command = [sys.executable, "-m", "paris_p2p.training.trainer"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as trainer:
        if trainer.stdin is None or trainer.stdout is None:
            raise SystemExit("the trainer has no pipes")
        trainer.stdin.write(job.to_line().encode())
        trainer.stdin.flush()
        events = [parse_event(line) for line in trainer.stdout]
    found = [each for each in events if isinstance(each, CheckpointReady)]
    if not found:
        raise SystemExit(f"the trainer made no checkpoint: {events[-1:]}")
    return found[-1]


if __name__ == "__main__":
    main()
