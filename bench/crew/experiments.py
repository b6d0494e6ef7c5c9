"""Lists what is played: an exploration of one seed, and the rows of the tables for three others."""

from __future__ import annotations

from bench.crew.plans import Plan

ALONE = {"way": "every-step", "peers": 1}
EVERY = {"way": "every-step"}

# Exploration: one seed, which no table is made of.
EXPLORED: dict[str, dict[str, object]] = {
    "alone": ALONE,
    "every-step": EVERY,
    "exact": {"exact": True},
    "dense-2": {},
    "dense-1": {"magnitudes": 1},
    "parts-4": {"parts": 4},
    "parts-8": {"parts": 8},
    "parts-16": {"parts": 16},
    "k1024": {"kept": 1024},
    "k256": {"kept": 256},
    "k64": {"kept": 64},
    "dense-2-all-kept": {"feedback": 1.0},
    "dense-2-delay-7": {"delay_steps": 7},
    "dense-2-delay-15": {"delay_steps": 15},
    "k256-rate-04": {"kept": 256, "outer_rate": 0.4},
    "k256-plain": {"kept": 256, "outer_rate": 0.8, "momentum": 0.0},
    "k64-plain": {"kept": 64, "outer_rate": 0.8, "momentum": 0.0},
    "k256-falling": {"kept": 256, "kept_from": 4096, "fall_rounds": 25},
    "dense-2-h30": {"inner_steps": 30, "rounds": 75},
    "dense-1-parts-4": {"magnitudes": 1, "parts": 4},
    "parts-4-h30": {"inner_steps": 30, "rounds": 75, "parts": 4},
    "k256-all-kept": {"kept": 256, "feedback": 1.0},
}


def explored(names: list[str]) -> list[Plan]:
    """Returns plans of the exploration, or all of it."""
    return [
        Plan.model_validate({"name": f"explore-{name}", **numbers})
        for name, numbers in EXPLORED.items()
        if not names or name in names
    ]
