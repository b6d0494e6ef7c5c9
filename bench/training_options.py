"""Measures what a run's training options do to held-out loss, on clips made as one goes, in minutes.

    .venv/bin/python -m bench.training_options muon [--steps 1500] [--seeds 0 1 2] [--out FOLDER]

Arms of one seed see the same clips, noise and times from the same first weights (`bench.compact` says what
clips); the step is the product's. The loss is the plain one of the averaged weights, over all times alike.
With --out, a file of each seed's losses is written, and arms that stand in it are not trained again.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.bare_run import bare_run
from bench.compact import BATCH_CLIPS, HELD_OUT_CLIPS, LATENT, SLOT, TEXT, clips
from bench.row import print_row
from paris_p2p.device import pick_device
from paris_p2p.disk import write_atomic
from paris_p2p.spec import LatentShape, NetworkSpec, RunSpec, TrainingSpec
from paris_p2p.training.gate_losses import mean_loss
from paris_p2p.training.learner import Learner

CPU = replace(pick_device("cpu"), bf16=False)


@dataclass(frozen=True)
class Arm:
    """Names one way to train, by what it changes."""

    name: str
    training: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    latent: LatentShape = LATENT
    preset: str = "nano"


def arms_of(question: str) -> Iterator[Arm]:
    """Yields a question's arms; the others are compared with the first."""
    if question == "muon":
        for optimizer in ("adamw", "muon"):
            for rate in (1e-3, 2e-3, 4e-3, 8e-3):
                yield Arm(f"{optimizer} {rate:g}", {"optimizer": optimizer, "learning_rate": rate})

    if question == "time-skip":
        fat = LatentShape(channels=16, frames=4, height=8, width=8)  # a patch of 64 numbers
        for preset in ("nano", "micro"):
            for skips in (False, True):
                network = {"time_skip": True} if skips else {}
                yield Arm(f"{preset}{' with the skip' if skips else ''}", {}, network, fat, preset)

    if question == "contrastive":
        for share in (0.0, 0.02, 0.05, 0.1):
            yield Arm(f"contrastive {share:g}", {"contrastive": share, "learning_rate": 4e-3})


QUESTIONS = ("muon", "time-skip", "contrastive")


def spec_of(arm: Arm, steps: int) -> RunSpec:
    training = TrainingSpec(
        **{
            "batch_clips": BATCH_CLIPS,
            "learning_rate": 1e-3,
            "total_steps": steps,
            "decay_steps": steps // 5,
            "ema_decay": 0.99,
            **arm.training,
        }
    )
    spec = bare_run(arm.latent, TEXT, arm.preset, training=training)
    expert = NetworkSpec(preset=arm.preset, config={**spec.expert.config, **arm.network})
    return spec.model_copy(update={"expert": expert})


def train_arm(arm: Arm, steps: int, seed: int) -> list[float]:
    """Returns an arm's held-out loss, the seconds of a step, and how far made clips are from their captions,
    without guidance and with one of 2 (`caption_errors`).
    """
    spec = spec_of(arm, steps)
    learner = Learner(f"{seed:064x}", spec, SLOT, CPU)
    generator = torch.Generator().manual_seed(1000 + seed)
    begun = time.thread_time()
    while learner.steps < steps:
        learner.step(clips(generator, BATCH_CLIPS, learner.clips, arm.latent))
    step_s = (time.thread_time() - begun) / steps
    for name, weight in learner.weights.items():
        weight.data.copy_(learner.ema[name])
    errors = [error for guidance in (1.0, 2.0) for error in caption_errors(learner, arm.latent, guidance)]
    return [held_out_loss(learner, spec, arm.latent), step_s, *errors]


def held_out_loss(learner: Learner, spec: RunSpec, latent: LatentShape) -> float:
    """Returns the loss of the learner's weights over clips that no arm is trained on."""
    held_out = clips(torch.Generator().manual_seed(99), HELD_OUT_CLIPS, 0, latent)
    t = torch.sigmoid(torch.special.ndtri((torch.arange(HELD_OUT_CLIPS) + 0.5) / HELD_OUT_CLIPS))
    plain = spec.model_copy(update={"training": TrainingSpec(batch_clips=BATCH_CLIPS, learning_rate=1e-3)})
    return mean_loss(learner.network.eval(), plain, SLOT, held_out, t.float(), CPU)


@torch.no_grad()
def caption_errors(learner: Learner, latent: LatentShape, guidance: float) -> tuple[float, float]:
    """Returns how far clips of 16 Euler steps are from their captions: (1 - cosine of the colours, mean
    distance of the ways, in pixels a frame).
    """
    asked = clips(torch.Generator().manual_seed(77), 128, 0, latent)
    told, none = asked.mask, torch.zeros_like(asked.mask)
    times, x = torch.linspace(1, 0, 17), asked.noise
    for now, then in pairwise(times):
        with_text, without = (
            learner.network(x, now.expand(len(x)), asked.tokens.float(), mask, asked.pooled.float())
            for mask in (told, none)
        )
        x = x + (then - now) * (without + guidance * (with_text - without))
    colour = torch.nn.functional.normalize(x.mean((2, 3, 4)), dim=1)  # [B C]
    wanted = torch.nn.functional.normalize(asked.latent.float().mean((2, 3, 4)), dim=1)
    way, wanted_way = _way(x, colour), _way(asked.latent.float(), wanted)
    return 1 - (colour * wanted).sum(1).mean().item(), (way - wanted_way).norm(dim=1).mean().item()


def _way(x: Tensor, colour: Tensor) -> Tensor:
    """Returns how far the centre of what has the colour moves a frame: [B C T H W], [B C] -> [B 2]."""
    strength = torch.einsum("bcthw,bc->bthw", x, colour).clamp_min(0)
    strength = strength / strength.sum((2, 3), keepdim=True).clamp_min(1e-6)
    side = torch.arange(x.shape[-1]).float()
    centres = torch.stack([strength.sum(3) @ side, strength.sum(2) @ side], -1)  # [B T 2]
    return (centres[:, -1] - centres[:, 0]) / (x.shape[2] - 1)


def compare(question: str, steps: int, seeds: list[int], out: Path | None) -> None:
    path = out / f"{question}-{steps}.json" if out else None
    found: dict[str, dict[str, list[float]]] = json.loads(path.read_text()) if path and path.exists() else {}
    arms = list(arms_of(question))
    for seed in seeds:
        for arm in arms:
            losses = found.setdefault(arm.name, {})
            if str(seed) in losses:
                continue
            losses[str(seed)] = train_arm(arm, steps, seed)
            print(f"seed {seed} {arm.name}: {losses[str(seed)][0]:.5f}", flush=True)
            if path:
                write_atomic(path, json.dumps(found, indent=1))
    for arm in arms:
        _print_arm(arm.name, found[arm.name], found[arms[0].name], steps)


def _print_arm(name: str, losses: dict[str, list[float]], first: dict[str, list[float]], steps: int) -> None:
    ratios = [losses[seed][0] / first[seed][0] for seed in losses]
    spread = statistics.stdev(ratios) / math.sqrt(len(ratios)) if len(ratios) > 1 else math.nan
    mean = statistics.mean(found[0] for found in losses.values())
    step_ms = 1e3 * statistics.median(found[1] for found in losses.values())
    errors = [statistics.mean(found[at] for found in losses.values()) for at in range(2, 6)]
    print_row(
        f"{name}, {steps} steps",
        f"loss {mean:.4f}, {statistics.mean(ratios):.4f} ± {spread:.4f} times the first's; "
        f"{step_ms:.1f} ms a step; colour {errors[0]:.3f}, way {errors[1]:.3f} from the caption's, "
        f"with guidance {errors[2]:.3f}, {errors[3]:.3f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("question", choices=QUESTIONS)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="a folder for every seed's losses, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    compare(options.question, options.steps, options.seeds, options.out)


if __name__ == "__main__":
    main()
