"""Lists what is played: an exploration of one seed, and the rows of the tables for three others."""

from __future__ import annotations

from bench.crew.plans import Plan

ALONE = {"way": "every-step", "peers": 1}
EVERY = {"way": "every-step"}

# Exploration: one seed, which no table of comparisons is made of.
RATE_4: dict[str, object] = {"learning_rate": 4e-3}
LATER: dict[str, object] = {**RATE_4, "delay_steps": 2}
LESS: dict[str, object] = {"outer_rate": 0.9, "momentum": 0.8}  # momentum than DiLoCo has
LEAST: dict[str, object] = {"outer_rate": 1.0, "momentum": 0.6}
EXPLORED: dict[str, dict[str, object]] = {
    "alone": ALONE,
    "every-step": EVERY,
    "exact": {"exact": True},
    "every-step-rate-2": {**EVERY, "learning_rate": 2e-3},
    "every-step-rate-4": {**EVERY, "learning_rate": 4e-3},
    "every-step-rate-8": {**EVERY, "learning_rate": 8e-3},
    "alone-rate-2": {**ALONE, "learning_rate": 2e-3},
    "alone-rate-4": {**ALONE, "learning_rate": 4e-3},
    "alone-rate-8": {**ALONE, "learning_rate": 8e-3},
    "exact-rate-4": {**RATE_4, "exact": True},
    # how coarse, with DiLoCo's momentum and no delay
    "step-1": {**RATE_4, "step": 1.0},
    "step-2": {**RATE_4, "step": 2.0},
    "step-3": {**RATE_4, "step": 3.0},
    # with a delay of two steps of fifteen, by momentum
    "later-step-2": LATER,
    "later-step-2-less": {**LATER, **LESS},
    "later-step-3-least": {**LATER, **LEAST, "step": 3.0},
    "later-parts-4-least": {**LATER, **LEAST, "parts": 4},
    # by how late a merge arrives
    "delay-7": {**RATE_4, **LESS, "delay_steps": 7},
    "delay-15": {**RATE_4, **LESS, "delay_steps": 15},
    "delay-15-eager": {**RATE_4, **LESS, "delay_steps": 15, "eager": True},
}


# What is compared at three seeds, each way at the inner rate that the exploration found best for it.
CREW_RATE, ALONE_RATE, EVERY_RATE = 4e-3, 4e-3, 8e-3
ROUNDS, SHORT_ROUNDS = 300, 100
OVERLAP_STEPS = 2  # of a round's 15: an upload that takes a tenth of a round, the merge, and the download
# What `rules/crew_defaults.py` chooses: all chunks a round, in steps of two; and one chunk in so many.
DEFAULT: dict[str, object] = {
    "step": 2.0, "outer_rate": 0.9, "momentum": 0.8, "delay_steps": OVERLAP_STEPS,
}  # fmt: skip
IN_PARTS: dict[str, object] = {**DEFAULT, "outer_rate": 1.0, "momentum": 0.6}
WHOLE: dict[str, dict[str, object]] = {
    "alone": {**ALONE, "learning_rate": ALONE_RATE},
    "every-step": {**EVERY, "learning_rate": EVERY_RATE},
}
SAME_RATE: dict[str, dict[str, object]] = {"every-step-same-rate": EVERY}  # as the crews
FIRST: dict[str, dict[str, object]] = {
    "exact": {"exact": True},  # with DiLoCo's own rate and momentum, and no delay
    "at-once": {"step": 2.0},  # as `exact`, but for what updates leave out
    "at-once-less": {**DEFAULT, "delay_steps": 0},
    "default": DEFAULT,
    "lean": {**IN_PARTS, "parts": 5},
    "leanest": {**IN_PARTS, "parts": 7},
}
TWO: dict[str, dict[str, object]] = {"crew-2": {**DEFAULT, "peers": 2}}
EIGHT: dict[str, dict[str, object]] = {"crew-8": {**DEFAULT, "peers": 8}}
# Against a quiet crew of as many rounds: a third as many, since nine crews are compared.
QUIET: dict[str, object] = {**DEFAULT, "rounds": SHORT_ROUNDS}
TROUBLED: dict[str, dict[str, object]] = {
    "quiet": QUIET,
    "churn": {**QUIET, "churn_rounds": 2},
    "late": {**QUIET, "late_share": 0.2},
    "late-folded": {**QUIET, "late_share": 0.2, "late_way": "folded"},
    "slow": {**QUIET, "slow": 1},
    "thin": {**QUIET, "thin": 1},
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
