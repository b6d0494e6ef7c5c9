"""Grows a run on real clips and measures what that costs: `python -m bench.growth OUT`.

    two worlds' clips -> a run of two experts, trained            1: before
    the third world's clips join it, and train on                 2: added
    the expert that got them is split, and all train on           3: grown
    the expert that then has the third world is dropped           4: dropped

Beside it (a) the same run goes on as long without the third world, and (b) a run has all three experts and
all clips from the start, for as many clips seen. Everything is the project's own preparation, rules and
trainer, without a network. The table holds the mixture's loss on held-out clips, as routed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.growth.folders import NEW, clusters_of, fresh_copy, held_out, prepare_third, prepare_two, record
from bench.growth.lineage import Trained, Word, go_on
from bench.growth.measure import Measured, mixture_loss
from paris_p2p.preparation.add_clips import add_clips_changes
from paris_p2p.preparation.regrouping import Regrouped, drop_expert, split_expert
from paris_p2p.rules.run_state import RunState
from paris_p2p.spec import ROUTER, RunSpec


@dataclass(frozen=True)
class Plan:
    """Says how many steps each stage takes."""

    before: int
    added: int
    grown: int
    router_share: float = 0.5  # of an expert's steps that the router makes beside it


@dataclass
class Table:
    """Collects what was measured, row by row."""

    rows: list[dict[str, object]] = field(default_factory=list)

    def add(self, name: str, measured: dict[str, Measured], clips: int) -> None:
        row: dict[str, object] = {"name": name, "clips_seen": clips}
        for which, found in measured.items():
            row |= {f"{which} loss": round(found.loss, 5), f"{which} experts": found.chosen}
        self.rows.append(row)
        print(json.dumps(row), flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Returns 0; what was measured is printed, and stands in OUT/growth.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--clips", type=int, default=900, help="of all three worlds together")
    parser.add_argument("--seed", type=int, default=0, help="RNG seed of the clips")
    parser.add_argument("--preset", default="micro", help="size of the experts")
    parser.add_argument("--steps", default="600,200,400", help="of an expert: before, added, grown")
    options = parser.parse_args(arguments)
    plan = Plan(*map(int, options.steps.split(",")))
    began_s = time.monotonic()
    record(options.out, options.clips, options.seed)
    table = grow(options.out, options.preset, plan)
    facts = {
        "options": {"clips": options.clips, "seed": options.seed, "steps": options.steps},
        "preset": options.preset,
        "wall_s": round(time.monotonic() - began_s),
        "clusters": clusters_of(options.out, options.out / "run"),
        "added": clusters_of(options.out, options.out / "run" / "additions" / "001"),
        "rows": table.rows,
    }
    (options.out / "growth.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in facts.items() if name != "rows"}))
    return 0


def grow(out: Path, preset: str, plan: Plan) -> Table:
    """Runs the whole life of the run, and both runs beside it."""
    table, run = Table(), prepare_two(out, preset)
    addition = prepare_third(out)
    print(addition.describe(), flush=True)
    folder = fresh_copy(out)
    sets = held_out(folder)

    def measure(
        name: str, spec: RunSpec, trained: Trained, dropped: tuple[int, ...] = ()
    ) -> dict[str, Measured]:
        weights = trained.weights
        found = {which: mixture_loss(spec, weights, clips, dropped) for which, clips in sets.items()}
        table.add(name, found, trained.clips)
        return found

    word = Word(folder, run)
    first = word.state()
    steps = _to(plan, first, plan.before)
    before = go_on(folder, first, Trained(), steps, "before")
    measure("before", first.spec, before)
    never = go_on(folder, first, before, _to(plan, first, plan.before + plan.added + plan.grown), "never")
    measure("(a) never added", first.spec, never)

    second = word.say(add_clips_changes(folder, word.said))
    added = go_on(folder, second, before, _to(plan, second, plan.before + plan.added), "added")
    measure("added", second.spec, added)

    parent = max(addition.clusters, key=lambda row: row.clips["train"]).cluster
    third = _regroup(word, split_expert(folder, run, second.spec, parent))
    child = third.spec.experts - 1
    until = _to(plan, third, plan.before + plan.added + plan.grown) | {f"expert-{child}": plan.grown}
    grown = go_on(folder, third, added, until, "grown")
    found = measure("grown", third.spec, grown)
    _beside(folder, plan, third, grown, measure)

    # Which half of the split has the new world is k-means' choice.
    fourth = _regroup(word, drop_expert(folder, run, third.spec, found[NEW].expert))
    measure("dropped", fourth.spec, grown, fourth.spec.dropped_experts)
    return table


def _regroup(word: Word, regrouped: Regrouped) -> RunState:
    """Says what regroups clips, and returns what the run is then."""
    print(regrouped.account, flush=True)
    state = word.say(regrouped.changes)
    regrouped.settle()
    return state


def _beside(folder: Path, plan: Plan, state: RunState, grown: Trained, measure: Callable[..., None]) -> None:
    """Trains (b): the same experts and clips from the start, each expert for an equal share of the clips."""
    experts = [slot for slot in state.spec.slots if slot != ROUTER]
    seen = sum(grown.checkpoints[slot].steps for slot in experts)
    steps = {slot: seen // len(experts) for slot in experts} | {ROUTER: grown.checkpoints[ROUTER].steps}
    measure("(b) three from the start", state.spec, go_on(folder, state, Trained(), steps, "three"))


def _to(plan: Plan, state: RunState, steps: int) -> dict[str, int]:
    """Returns until which step each slot is trained."""
    return {slot: round(steps * (plan.router_share if slot == ROUTER else 1)) for slot in state.spec.slots}


if __name__ == "__main__":
    raise SystemExit(main())
