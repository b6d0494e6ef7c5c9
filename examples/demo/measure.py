"""Measures how fast this machine trains: the trainers' very step, in their number and thread layout.

    python -m examples.demo.measure

One process for each expert and one for the router, a thread each, all at once, on noise of each size's
shape. What else runs on the machine slows them as it will slow training.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from examples.demo.sizes import EXPERTS, SIZES, Size, Speed

if TYPE_CHECKING:
    from paris_p2p.data.batches import Batch
    from paris_p2p.spec import RunSpec

MEASURE_S, WARM_UP_STEPS = 2.5, 2  # of each size
PLAIN_SIDE, PLAIN_PRODUCTS = 512, 20
FRAMES, CODEC_PATCH, CHANNELS = 8, 4, 8  # what `prepare` makes of the demo's clips
ROUTER = "router"
ROOT = Path(__file__).parents[2]


def measure(sizes: Sequence[Size], environment: Mapping[str, str] = os.environ) -> dict[str, Speed]:
    """Returns each size's speed by name, after some ten seconds.

    SystemExit when a trainer ends instead of measuring; its words are on stderr.
    """
    slots = (*(f"expert-{k}" for k in range(EXPERTS)), ROUTER)
    names = [size.name for size in sizes]
    children = [_child(slot, names, environment) for slot in slots]
    try:
        return {name: speed_of(_turn(children)) for name in names}
    finally:
        for child in children:
            child.kill()
            child.communicate()


def speed_of(rows: Sequence[Mapping[str, float]]) -> Speed:
    """Returns the speed of each process's steps, processor and wall seconds; the router's come last."""
    *experts, router = rows
    return Speed(
        expert_step_s=sum(row["cpu_s"] for row in experts) / sum(row["steps"] for row in experts),
        router_step_s=router["cpu_s"] / router["steps"],
        cores=sum(row["cpu_s"] / row["wall_s"] for row in rows),
        plain_s=min(row["plain_s"] for row in rows),
    )


def _child(slot: str, names: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "examples.demo.measure", slot, *names],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**environment, "OMP_NUM_THREADS": "1"},
    )


def _turn(children: Sequence[subprocess.Popen[str]]) -> list[dict[str, float]]:
    """Lets all processes measure one size at once; returns their rows."""
    for child in children:
        _hear(child)
    for child in children:
        if child.stdin is not None:
            child.stdin.write("go\n")
            child.stdin.flush()
    return [_hear(child) for child in children]


def _hear(child: subprocess.Popen[str]) -> Any:
    line = child.stdout.readline() if child.stdout is not None else ""
    if not line:
        raise SystemExit(
            f"measuring the machine failed: a trainer ended with status {child.wait()} (see above)"
        )
    return json.loads(line)


# in each process


def main(slot: str, names: Sequence[str]) -> None:
    """Measures one slot: says when it is ready for a size, waits for a line, works, and says what it took."""
    import torch

    from paris_p2p.device import pick_device
    from paris_p2p.training.learner import Learner

    torch.set_num_threads(1)
    device, sizes = pick_device("auto"), {size.name: size for size in SIZES}
    plain_s = _plain_s()
    for name in names:
        spec = _spec(sizes[name])
        learner = Learner("0" * 64, spec, slot, device)
        batch = _noise(spec, slot).to(device.torch)
        for _ in range(WARM_UP_STEPS):
            learner.step(batch)
        print(json.dumps("ready"), flush=True)
        sys.stdin.readline()
        # A process that waits for its GPU needs no processor, yet the step takes its time.
        row = timed(lambda: learner.step(batch), time.monotonic if device.cuda else time.process_time)  # noqa: B023
        print(json.dumps(row | {"plain_s": plain_s}), flush=True)


def timed(step: Callable[[], object], work_clock: Callable[[], float]) -> dict[str, float]:
    """Returns the steps in MEASURE_S wall seconds (one at least), and what they took by either clock."""
    began_s, began_work_s, steps = time.monotonic(), work_clock(), 0
    while steps == 0 or time.monotonic() - began_s < MEASURE_S:
        step()
        steps += 1
    return {"steps": steps, "cpu_s": work_clock() - began_work_s, "wall_s": time.monotonic() - began_s}


def _plain_s() -> float:
    """Returns processor seconds of some float32 products."""
    import torch

    square = torch.ones(PLAIN_SIDE, PLAIN_SIDE)
    began_s = time.process_time()
    for _ in range(PLAIN_PRODUCTS):
        square @ square
    return time.process_time() - began_s


def _spec(size: Size) -> RunSpec:
    """Returns a run of this size as far as a step needs it: without data, unsigned."""
    from bench.bare_run import bare_run, router_of
    from paris_p2p.spec import LatentShape, TextShape, TrainingSpec

    side = size.side_pixels // CODEC_PATCH
    latent = LatentShape(channels=CHANNELS, frames=FRAMES, height=side, width=side)
    text = TextShape(tokens=32, dim=384, pooled_dim=384)
    training = TrainingSpec(
        batch_clips=size.batch_clips,
        router_batch_clips=size.router_batch_clips,
        learning_rate=1e-4,
        router_learning_rate=1e-4,
    )
    router = router_of(size.router, latent, text, EXPERTS)
    return bare_run(latent, text, size.expert, experts=EXPERTS, router=router, training=training)


def _noise(spec: RunSpec, slot: str) -> Batch:
    import torch

    from paris_p2p.data.batches import Batch
    from paris_p2p.data.draws import UNIFORMS
    from paris_p2p.training.objective import batch_clips

    count, text, shape = batch_clips(spec, slot), spec.text_shape, spec.latent.shape
    return Batch(
        first_clip=0,
        latent=torch.randn(count, *shape).half(),
        tokens=torch.randn(count, text.tokens, text.dim).half(),
        mask=torch.ones(count, text.tokens, dtype=torch.bool),
        pooled=torch.randn(count, text.pooled_dim).half(),
        cluster=torch.zeros(count, dtype=torch.long),
        noise=torch.randn(count, *shape),
        normal=torch.randn(count, dtype=torch.float64),
        uniforms=torch.rand(count, UNIFORMS, dtype=torch.float64),
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1], sys.argv[2:])
    else:
        for name, speed in measure(SIZES).items():
            print(f"{name}: {speed}")
