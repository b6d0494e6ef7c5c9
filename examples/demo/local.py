"""The demo's model without its swarm: train every slot of a created run for some CPU seconds, one after the other, then generate.

    python -m examples.demo.local RUN_FOLDER --cpu-s 200 --out clips.npy

For finding settings: what the swarm trains in a quarter of an hour on two cores is about 200 CPU seconds a slot.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from paris_p2p.work.create import SPEC_FILE, load_run
from paris_p2p.work.generate import GenerateJob, generate
from paris_p2p.work.messages import CheckpointReady, Command, Event, StepEvent, TrainJob
from paris_p2p.work.train import train


def train_slot(folder: Path, slot: str, cpu_s: float) -> tuple[str, Path, str]:
    """(slot, weights, a line about it) after `cpu_s` CPU seconds on one thread."""
    run = load_run(folder)
    shards = run.record.shards_for(slot, "train")
    blobs = folder / "node" / "blobs"
    out = folder / "local" / slot
    out.mkdir(parents=True, exist_ok=True)
    job = TrainJob(
        run=run.id,
        slot=slot,
        spec_path=folder / SPEC_FILE,
        shard_paths=tuple(blobs / shard.blob.id[:2] / f"{shard.blob.id}.data" for shard in shards),
        shard_clusters=tuple(shard.cluster for shard in shards),
        out_dir=out,
        device="cpu",
        threads=1,
        checkpoint_s=0,
    )
    last: dict[str, object] = {}

    def emit(event: Event) -> None:
        if isinstance(event, StepEvent):
            last["step"] = event
        if isinstance(event, CheckpointReady):
            last["checkpoint"] = event

    started = time.process_time()
    train(job, emit, lambda: Command(command="stop") if time.process_time() - started > cpu_s else None)
    checkpoint, step = last["checkpoint"], last["step"]
    if not isinstance(checkpoint, CheckpointReady) or not isinstance(step, StepEvent):
        raise SystemExit(f"{slot} made no checkpoint")
    return slot, checkpoint.weights_path, f"{slot}: {checkpoint.steps} steps, {checkpoint.clips} clips, last loss {step.loss:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a run's slots here, without a swarm, and generate.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cpu-s", type=float, default=200.0)
    parser.add_argument("--router-cpu-s", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=Path("clips.npy"))
    parser.add_argument("--prompts-file", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--guidance", type=float, default=2.0)
    arguments = parser.parse_args()
    run = load_run(arguments.folder)
    weights: dict[str, Path] = {}
    with ProcessPoolExecutor(2) as pool:
        budget = {slot: arguments.router_cpu_s if slot == "router" else arguments.cpu_s for slot in run.record.slots}
        for slot, path, line in pool.map(train_slot, *zip(*[(arguments.folder, s, c) for s, c in budget.items()], strict=True)):
            weights[slot] = path
            print(line, flush=True)
    started = time.monotonic()
    job = GenerateJob(
        run=run.id,
        spec_path=arguments.folder / SPEC_FILE,
        weights=weights,
        codec_folder=arguments.folder / "codec",
        prompts=tuple(arguments.prompts_file.read_text().splitlines()),
        steps=arguments.steps,
        guidance=arguments.guidance,
        out=arguments.out,
    )
    generate(job)
    print(f"generated in {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
