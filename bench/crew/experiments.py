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
    # what the first ones asked for: rates, overlap, and sending less later
    "every-step-rate-2": {**EVERY, "learning_rate": 2e-3},
    "every-step-rate-4": {**EVERY, "learning_rate": 4e-3},
    "alone-rate-2": {**ALONE, "learning_rate": 2e-3},
    "alone-rate-4": {**ALONE, "learning_rate": 4e-3},
    "dense-2-rate-2": {"learning_rate": 2e-3},
    "delay-2": {"delay_steps": 2},
    "delay-7": {"delay_steps": 7},
    "delay-7-eager": {"delay_steps": 7, "eager": True},
    "delay-15-eager": {"delay_steps": 15, "eager": True},
    "delay-7-momentum-08": {"delay_steps": 7, "momentum": 0.8},
    "delay-7-rate-05": {"delay_steps": 7, "outer_rate": 0.5},
    "parts-2": {"parts": 2},
    "parts-8-growing": {"parts": 8, "grow_rounds": 25},
    "k64-falling": {"kept": 64, "kept_from": 4096, "fall_rounds": 15},
    "k1024-falling": {"kept": 1024, "kept_from": 4096, "fall_rounds": 40},
    # at the rate that suits all of them better
    "every-step-rate-8": {**EVERY, "learning_rate": 8e-3},
    "alone-rate-8": {**ALONE, "learning_rate": 8e-3},
    "exact-rate-4": {"exact": True, "learning_rate": 4e-3},
    "dense-2-rate-4": {"learning_rate": 4e-3},
    "k1365-rate-4": {"kept": 1365, "learning_rate": 4e-3},
    "k1365-all-kept-rate-4": {"kept": 1365, "feedback": 1.0, "learning_rate": 4e-3},
    "parts-2-rate-4": {"parts": 2, "learning_rate": 4e-3},
    "parts-4-rate-4": {"parts": 4, "learning_rate": 4e-3},
    "parts-8-rate-4": {"parts": 8, "learning_rate": 4e-3},
    "delay-7-rate-4": {"delay_steps": 7, "learning_rate": 4e-3},
    "delay-7-eager-rate-4": {"delay_steps": 7, "eager": True, "learning_rate": 4e-3},
}


# What is compared at three seeds, each way at the inner rate that the exploration found best for it.
CREW_RATE, ALONE_RATE, EVERY_RATE = 2e-3, 4e-3, 8e-3
ROUNDS, SHORT_ROUNDS = 100, 50
OVERLAP_STEPS = 2  # of a round's 15: an upload that takes a tenth of a round, the merge, and the download
# What `rules/crew_defaults.py` chooses for a small network: a half of the chunks a round.
DEFAULT: dict[str, object] = {"parts": 2, "delay_steps": OVERLAP_STEPS}
WHOLE: dict[str, dict[str, object]] = {
    "alone": {**ALONE, "learning_rate": ALONE_RATE},
    "every-step": {**EVERY, "learning_rate": EVERY_RATE},
}
SAME_RATE: dict[str, dict[str, object]] = {"every-step-same-rate": EVERY}  # as the crews
FIRST: dict[str, dict[str, object]] = {
    "exact": {"exact": True},
    "full": {**DEFAULT, "parts": 1},
    "default": DEFAULT,
    "lean": {**DEFAULT, "parts": 9},
}
TWO: dict[str, dict[str, object]] = {"crew-2": {**DEFAULT, "peers": 2}}
EIGHT: dict[str, dict[str, object]] = {"crew-8": {**DEFAULT, "peers": 8}}
# Against a quiet crew of as many rounds: half as many, since nine crews are compared.
QUIET: dict[str, object] = {**DEFAULT, "rounds": SHORT_ROUNDS}
TROUBLED: dict[str, dict[str, object]] = {
    "quiet": QUIET,
    "churn": {**QUIET, "churn_rounds": 2},
    "late": {**QUIET, "late_share": 0.2, "late_way": "folded"},
    "slow": {**QUIET, "slow": 1},
    "thin": {**QUIET, "thin": 1, "thin_kept": 256},
    "refused": {**QUIET, "peers": 3},
}
ATTACKED: dict[str, dict[str, object]] = {
    "checked": {**QUIET, "checked": True},
    **{attack: {**QUIET, "attack": attack, "checked": True} for attack in ("flip", "noise", "other-data")},
}
FINAL: dict[str, dict[str, dict[str, object]]] = {
    "whole": WHOLE,
    "same-rate": SAME_RATE,
    "first": FIRST,
    "two": TWO,
    "eight": EIGHT,
    "troubled": TROUBLED,
    "attacked": ATTACKED,
}
SEEDS = {1: "expert-0", 2: "expert-1", 3: "expert-0"}


def final(group: str, seeds: list[int]) -> list[Plan]:
    """Returns the plans of a group of rows, at some seeds."""
    return [
        Plan.model_validate(
            {
                "learning_rate": CREW_RATE,
                "rounds": ROUNDS,
                **numbers,
                "name": f"{row}-seed-{seed}",
                "seed": seed,
                "slot": SEEDS[seed],
            }
        )
        for seed in seeds
        for row, numbers in FINAL[group].items()
    ]


def explored(names: list[str]) -> list[Plan]:
    """Returns plans of the exploration, or all of it."""
    return [
        Plan.model_validate({"name": f"explore-{name}", **numbers})
        for name, numbers in EXPLORED.items()
        if not names or name in names
    ]
