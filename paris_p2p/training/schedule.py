"""Sets what changes with the step: the learning rate, and how slowly the average forgets."""

from __future__ import annotations

from paris_p2p.rules.rates import rate_factor
from paris_p2p.spec import ROUTER, TrainingSpec


def learning_rate(training: TrainingSpec, slot: str, step: int, lowered: int = 0) -> float:
    """Returns the rate of optimizer step `step` (from 0).

    It warms up linearly, stays constant, then decays linearly to zero at total_steps; all of it is multiplied
    by `rate_factor(lowered)`, for a slot whose rate was lowered so often because it got no better.
    """
    rate = training.router_learning_rate if slot == ROUTER else training.learning_rate
    rate *= min(1.0, (step + 1) / max(1, training.warmup_steps))
    if training.total_steps and training.decay_steps:
        rate *= min(1.0, max(0.0, (training.total_steps - step) / training.decay_steps))
    return rate * rate_factor(lowered)


def ema_decay(limit: float, step: int) -> float:
    """Returns the average's decay at step `step` (from 0).

    It forgets the initialisation first, and reaches its limit later.
    """
    return min(limit, (1 + step) / (10 + step))
