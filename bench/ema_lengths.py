"""Measures what the length of the average of the weights does to held-out loss, and if two make others.

    .venv/bin/python -m bench.ema_lengths [--steps 1000] [--seeds 0 1 2]

One training a seed and schedule (with and without a rate that falls to zero over the last fifth) keeps what a
run with `--ema-profile power` keeps, beside it exponential averages, and the power average of length 0.08
itself, to which what is made of the two should be near. Clips and loss are those of `bench.training_options`.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping

import torch
from torch import Tensor

from bench.compact import BATCH_CLIPS, LATENT, SLOT, clips
from bench.row import print_row
from bench.training_options import CPU, Arm, held_out_loss, spec_of
from paris_p2p.model.power_average import exponent_of, share_of_first
from paris_p2p.training.learner import Learner
from paris_p2p.training.schedule import ema_decay

LENGTHS, MADE = (0.04, 0.05, 0.06, 0.08, 0.10, 0.12), 0.08
DECAYS = (0.9, 0.99, 0.999)


def losses_of(steps: int, seed: int, *, falls: bool) -> dict[str, float]:
    """Returns the held-out loss of each average of one training, by what it is called."""
    training = {"ema_profile": "power", "learning_rate": 4e-3, "decay_steps": steps // 5 if falls else 0}
    spec = spec_of(Arm("power", training), steps)
    learner = Learner(f"{seed:064x}", spec, SLOT, CPU)
    begun = {name: weight.detach().clone() for name, weight in learner.weights.items()}
    beside = {name: {n: w.clone() for n, w in begun.items()} for name in (*map(str, DECAYS), "itself")}
    generator, exponent = torch.Generator().manual_seed(1000 + seed), exponent_of(MADE)
    while learner.steps < steps:
        learner.step(clips(generator, BATCH_CLIPS, learner.clips))
        step = learner.steps - 1
        decays = {str(decay): ema_decay(decay, step) for decay in DECAYS}
        decays["itself"] = (1 - 1 / (step + 1)) ** (exponent + 1)
        for name, average in beside.items():
            for n, weight in learner.weights.items():
                average[n].lerp_(weight.detach(), 1 - decays[name])
    shares = {length: share_of_first(length) for length in LENGTHS}
    made = {
        f"length {length:g}": {n: learner.ema_long[n].lerp(learner.ema[n], share) for n in begun}
        for length, share in shares.items()
    }
    named = {f"exponential {name}": average for name, average in beside.items() if name != "itself"}
    last = {name: weight.detach().clone() for name, weight in learner.weights.items()}
    every = {"no average": last, **named, **made, f"length {MADE:g} itself": beside["itself"]}
    return {name: _loss(learner, average) for name, average in every.items()}


def _loss(learner: Learner, average: Mapping[str, Tensor]) -> float:
    for name, weight in learner.weights.items():
        weight.data.copy_(average[name])
    return held_out_loss(learner, learner.spec, LATENT)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for falls in (True, False):
        found = []
        for seed in options.seeds:
            found.append(losses_of(options.steps, seed, falls=falls))
            print(falls, seed, found[-1], flush=True)
        words = (f"{name} {statistics.mean(row[name] for row in found):.4f}" for name in found[0])
        schedule = "a rate that falls" if falls else "a rate that stays"
        print_row(f"averages after {options.steps} steps of {schedule}", "; ".join(words))


if __name__ == "__main__":
    main()
