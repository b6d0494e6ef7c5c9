"""Makes a size's model without its swarm: the same clips, run and steps, trained here, generated and judged.

    python -m examples.demo.local --size small --out small [--steps 600] [--no-bfloat16]

For finding what a size may promise: as many slots at once as there are cores, a thread each.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from examples.demo import data
from examples.demo.judge import fit_probe, judge
from examples.demo.run import GUIDANCE, PROBE_CLIPS, TEST_CLIPS, TRAIN_CLIPS, console, refuse_bfloat16
from examples.demo.sizes import FAST_BOUND_S, SIZES, Plan, Size, Speed
from paris_p2p.fetched_run import FetchedRun
from paris_p2p.generation.generate import GenerateJob, generate
from paris_p2p.preparation.create import load_run
from paris_p2p.run_file import RUN_FILE
from paris_p2p.training.messages import CheckpointReady, Event, StepEvent, TrainJob
from paris_p2p.training.train import train


def train_slot(folder: Path, slot: str) -> tuple[str, Path, str]:
    """Trains a slot to its last step on one thread; returns (slot, weights, a line about it)."""
    run = load_run(folder)
    shards = run.record.shards_for(slot, "train")
    blobs, out = folder / "node" / "blobs", folder / "local" / slot
    out.mkdir(parents=True, exist_ok=True)
    job = TrainJob(
        run=run.id,
        slot=slot,
        spec_path=folder / RUN_FILE,
        shard_paths=tuple(blobs / shard.blob.id[:2] / f"{shard.blob.id}.data" for shard in shards),
        shard_clusters=tuple(shard.cluster for shard in shards),
        out_dir=out,
        device="cpu",
        threads=1,
        checkpoint_s=0,
    )
    last: dict[type[Event], Event] = {}
    began_s = time.process_time()
    train(job, lambda event: last.update({type(event): event}), lambda: None)
    checkpoint, step = last[CheckpointReady], last[StepEvent]
    if not isinstance(checkpoint, CheckpointReady) or not isinstance(step, StepEvent):
        raise SystemExit(f"{slot} made no checkpoint")
    used_s = time.process_time() - began_s
    words = f"{slot}: {checkpoint.steps} steps, last loss {step.loss:.4f}, {used_s:.0f} processor seconds"
    return slot, checkpoint.weights_path, words


def make(out: Path, size: Size, rng_seed: int) -> None:
    """Records, prepares, creates, trains, generates and judges; prints the judge's table."""
    folder = out / "run"
    data.record(out, size, rng_seed)
    prepared = data.prepare(out, size)
    data.create(out, Plan(size, Speed(0.1, 0.02, 2.0), FAST_BOUND_S, FAST_BOUND_S, fits=True))
    probe = fit_probe(*data.real_clips(folder, prepared, "train", PROBE_CLIPS))
    run = load_run(folder)
    weights: dict[str, Path] = {}
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for slot, path, line in pool.map(train_slot, [folder] * len(run.record.slots), run.record.slots):
            weights[slot] = path
            console.print(line)
    prompts, labels = data.choose_prompts(folder, size.judged_clips, rng_seed)
    job = GenerateJob(
        prompts=tuple(prompts),
        steps=size.sampling_steps,
        guidance=GUIDANCE,
        out=out / "clips.npy",
    )
    generate(FetchedRun(run, weights, codec_folder=folder / "codec"), job)
    real = data.real_clips(folder, prepared, "test", TEST_CLIPS)
    train_real, _ = data.real_clips(folder, prepared, "train", TRAIN_CLIPS)
    console.print(
        judge(probe, np.load(out / "clips.npy"), prompts, labels, real, train_real, size.promise).table()
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Train a size of the demo here, without a swarm, and judge it."
    )
    parser.add_argument("--out", type=Path, required=True, help="everything goes here; emptied first")
    parser.add_argument("--size", choices=[size.name for size in SIZES], default=SIZES[0].name)
    parser.add_argument("--steps", type=int, default=0, help="of every slot, instead of the size's own")
    parser.add_argument("--no-bfloat16", action="store_true")
    parser.add_argument("--rng-seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.no_bfloat16:
        refuse_bfloat16()
    size = next(size for size in SIZES if size.name == arguments.size)
    shutil.rmtree(arguments.out, ignore_errors=True)
    arguments.out.mkdir(parents=True)
    make(arguments.out.resolve(), replace(size, steps=arguments.steps or size.steps), arguments.rng_seed)


if __name__ == "__main__":
    main()
