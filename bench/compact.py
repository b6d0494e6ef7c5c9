"""Measures whether compact checkpoints hurt: held-out loss with them and without, bytes a parameter, seconds.

    .venv/bin/python -m bench.compact [--preset nano] [--steps 1500] [--seeds 0 1 2] [--out DIR]
    .venv/bin/python -m bench.compact --sizes tiny small

Arms of one seed see the same clips, noise and times from the same first weights: `full` never rounds,
`compact-50` writes a compact checkpoint every 50 steps and goes on from it, `compact-10` every 10, and
`nudged` is `full` whose first weights differ by a thousandth, which says what chance alone does to the loss.
Clips are blobs that move through a latent, with colour and way in the text: as many as one likes, so that
held-out loss falls with the training loss. It is measured on the averaged weights at the end.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from bench.bare_run import bare_run
from bench.row import print_row
from paris_p2p.data.batches import Batch
from paris_p2p.data.draws import UNIFORMS
from paris_p2p.device import pick_device
from paris_p2p.spec import LatentShape, RunSpec, TextShape, TrainingSpec
from paris_p2p.training.gate_losses import mean_loss
from paris_p2p.training.learner import Learner

LATENT = LatentShape(channels=4, frames=4, height=8, width=8)
TEXT = TextShape(tokens=2, dim=16, pooled_dim=16)
BATCH_CLIPS, HELD_OUT_CLIPS = 16, 1024
ARMS = {"full": 0, "nudged": 0, "compact-50": 50, "compact-10": 10}  # steps between compact checkpoints
RUN, SLOT = "ab" * 32, "expert-0"


def spec_of(preset: str, steps: int, *, compact: bool) -> RunSpec:
    training = TrainingSpec(
        batch_clips=BATCH_CLIPS,
        learning_rate=1e-3,
        total_steps=steps,
        decay_steps=steps // 5,
        ema_decay=0.99,
        compact=compact,
    )
    return bare_run(LATENT, TEXT, preset, training=training)


def clips(generator: torch.Generator, count: int, first_clip: int = 0, latent: LatentShape = LATENT) -> Batch:
    """Returns so many blobs that move, with noise and times."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    colour = torch.nn.functional.normalize(uniform(count, latent.channels) - 0.5, dim=1)
    start, way = 2 + 4 * uniform(count, 2), 2 * uniform(count, 2) - 1
    frames = torch.arange(latent.frames)[None, :, None]
    centre = start[:, None] + way[:, None] * frames  # [B T 2]
    side = torch.arange(latent.height).float()
    bells = [torch.exp(-((side - centre[..., axis, None]) ** 2) / 3) for axis in (0, 1)]  # [B T H], [B T W]
    blob = torch.einsum("bc,bth,btw->bcthw", colour, *bells)
    words = torch.zeros(count, TEXT.tokens, TEXT.dim)
    told = min(latent.channels, TEXT.dim)
    words[:, 0, :told], words[:, 1, :2] = 2 * colour[:, :told], 2 * way
    return Batch(
        first_clip=first_clip,
        latent=(4 * blob).half(),
        tokens=words.half(),
        mask=torch.ones(count, TEXT.tokens, dtype=torch.bool),
        pooled=words[:, 0].half(),
        cluster=torch.zeros(count, dtype=torch.int64),
        noise=torch.randn(count, *latent.shape, generator=generator),
        normal=torch.randn(count, generator=generator).double(),
        uniforms=uniform(count, UNIFORMS).double(),
    )


def train_arm(arm: str, preset: str, steps: int, seed: int) -> float:
    """Returns an arm's held-out loss."""
    cpu = replace(pick_device("cpu"), bf16=False)
    spec, every = spec_of(preset, steps, compact=ARMS[arm] > 0), ARMS[arm]
    learner = Learner(f"{seed:064x}", spec, SLOT, cpu)
    generator = torch.Generator().manual_seed(1000 + seed)
    if arm == "nudged":
        nudge = torch.Generator().manual_seed(seed)
        for weight in learner.weights.values():
            weight.data.mul_(1 + 1e-3 * torch.randn(weight.shape, generator=nudge))
    with tempfile.TemporaryDirectory() as folder:
        while learner.steps < steps:
            learner.step(clips(generator, BATCH_CLIPS, learner.clips))
            if every and learner.steps % every == 0:
                learner.write_checkpoint(Path(folder))
    for name, weight in learner.weights.items():
        weight.data.copy_(learner.ema[name])
    held_out = clips(torch.Generator().manual_seed(99), HELD_OUT_CLIPS)
    t = torch.sigmoid(torch.special.ndtri((torch.arange(HELD_OUT_CLIPS) + 0.5) / HELD_OUT_CLIPS))
    return mean_loss(learner.network.eval(), spec, SLOT, held_out, t.float(), cpu)


def compare(preset: str, steps: int, seeds: list[int], arms: list[str], out: Path | None) -> None:
    losses: dict[str, list[float]] = {arm: [] for arm in ARMS if arm in {"full", *arms}}
    for seed in seeds:
        for arm, measured in losses.items():
            measured.append(train_arm(arm, preset, steps, seed))
            print(f"seed {seed} {arm}: {measured[-1]:.5f}", flush=True)
    for arm, measured in losses.items():
        if arm == "full":
            continue
        ratios = [ours / full for ours, full in zip(measured, losses["full"], strict=True)]
        spread = statistics.stdev(ratios) if len(ratios) > 1 else math.nan
        print_row(
            f"held-out loss, {arm} against full, {preset}, {steps} steps",
            f"{statistics.mean(ratios):.4f} ± {spread / math.sqrt(len(ratios)):.4f} "
            f"(full {statistics.mean(losses['full']):.4f}; {len(seeds)} seeds)",
        )
    if out is not None:
        (out / f"compact-{preset}.json").write_text(json.dumps(losses))


def measure_sizes(preset: str) -> None:
    """Prints the bytes and seconds of one checkpoint of each kind, after a step."""
    cpu = replace(pick_device("cpu"), bf16=False)
    for compact in (False, True):
        learner = Learner(RUN, spec_of(preset, 10, compact=compact), SLOT, cpu)
        learner.step(clips(torch.Generator().manual_seed(0), 2))
        with tempfile.TemporaryDirectory() as folder:
            begun = time.monotonic()
            files = learner.write_checkpoint(Path(folder))
            write_s = time.monotonic() - begun
            sizes = [path.stat().st_size / learner.parameters for path in files]
            begun = time.monotonic()
            learner.restore(files[1], learner.steps, learner.clips)
            read_s = time.monotonic() - begun
        print_row(
            f"{'compact' if compact else 'full'} checkpoint, {preset}, {learner.parameters / 1e6:.1f} M",
            f"{sum(sizes):.3f} bytes a parameter ({sizes[0]:.3f} weights); written in {write_s:.2f} s, "
            f"checked and read in {read_s:.2f} s",
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--out", type=Path, help="a folder that gets the losses of every seed as JSON")
    parser.add_argument("--sizes", nargs="+", metavar="PRESET", help="measure files instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.sizes:
        for preset in options.sizes:
            measure_sizes(preset)
        return
    compare(options.preset, options.steps, options.seeds, options.arms, options.out)


if __name__ == "__main__":
    main()
