"""Plays many plans at once on one stack, and leaves what came out of each in a small file.

A plan whose file is there is not played again, so that the same call goes on where it ended.
Legend: M rows in all, n parameters.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor

from bench.crew.checking import Checks
from bench.crew.clips_seen import Streams, held_out, side_by_side
from bench.crew.crews import Crew
from bench.crew.plans import EMA_DECAYS, NETWORK, TRAINING, Plan, peer_name
from bench.crew.stacked import Inner, Seen, Stacked
from paris_p2p.disk import write_atomic
from paris_p2p.model.plain_dit import PlainVideoDiT
from paris_p2p.model.presets import build_expert
from paris_p2p.updates.layout import Vector

GROUP_ROWS = 8  # that go through the network together: more no longer fit the cache
CURVE_CLIPS, FINAL_CLIPS, MEASURED_ROWS = 64, 1024, 4
CURVE_POINTS = 20


@dataclass
class Stage:
    """Holds all that plans which are played together share."""

    folder: Path
    stacked: Stacked
    streams: Streams

    @classmethod
    def open(cls, folder: Path) -> Stage:
        return cls(folder, Stacked(_network("0" * 64, "expert-0")), Streams(folder, TRAINING))

    def measure(self, rows: Sequence[Vector], slot: str, clips: int) -> np.ndarray:
        """Returns the losses of held-out clips: [M clips]."""
        return self.losses(rows, held_out(self.folder, slot, TRAINING, clips))

    @torch.no_grad()
    def losses(self, rows: Sequence[Vector], parts: Sequence[Seen]) -> np.ndarray:
        found = []
        for first in range(0, len(rows), MEASURED_ROWS):
            some = torch.from_numpy(np.stack(rows[first : first + MEASURED_ROWS]))
            weights = self.stacked.named(some)
            each = [self.stacked.losses(weights, _for_all(part, len(some))) for part in parts]
            found.append(torch.cat(each, 1).double().numpy())
        return np.concatenate(found)


def _network(run: str, slot: str) -> PlainVideoDiT:
    """Returns the network of (run, slot) as every peer of it first has it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(blake3(f"{run} {slot}".encode()).digest()[:7], "little"))
        network = build_expert(NETWORK)
    assert isinstance(network, PlainVideoDiT)
    return network


def _for_all(seen: Seen, rows: int) -> Seen:
    return Seen(*(part.expand(rows, *part.shape[1:]) for part in vars(seen).values()))


def play(plans: Sequence[Plan], folder: Path, results: Path, keep: Path | None = None) -> None:
    """Plays what has no result yet, all at once; `keep` gets the averaged weights."""
    missing = [plan for plan in plans if not (results / f"{plan.name}.json").exists()]
    if not missing:
        return
    stage, began_s = Stage.open(folder), time.monotonic()
    groups = _grouped(missing)
    n = stage.stacked.parameters
    inner = Inner(sum(plan.peers for plan in missing), n, TRAINING.clip_grad_norm)
    stack, crews, row = torch.empty(sum(plan.peers for plan in missing), n), {}, 0
    spans = []
    for group in groups:
        first = row
        for plan in group:
            base = stage.stacked.flat(_network(plan.run, plan.slot)).numpy()
            part = stack[row : row + plan.peers]
            checks = _checks(plan, folder)
            crews[plan.name] = Crew(plan, part, inner, row, base, checks)
            row += plan.peers
        spans.append((group, first, row))
    ticks = {plan.name: plan.rounds * plan.inner_steps for plan in missing}
    curves: dict[str, list[list[float]]] = {plan.name: [] for plan in missing}
    last = max(ticks.values())
    for tick in range(last):
        for group, first, end in spans:
            _step([crews[plan.name] for plan in group], stage, stack[first:end], tick)
        _curves(crews, stage, ticks, curves, tick + 1)
        if (tick + 1) % 100 == 0:
            print(f"{tick + 1} of {last} steps, {time.monotonic() - began_s:.0f} s", flush=True)
    for plan in missing:
        _leave(crews[plan.name], stage, curves[plan.name], results, time.monotonic() - began_s)
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            np.save(keep / f"{plan.name}.npy", crews[plan.name].state.average)


def _checks(plan: Plan, folder: Path) -> Checks:
    return Checks.of(plan, _network(plan.run, plan.slot), folder, peer_name(0)) if plan.checked else Checks()


def _step(crews: list[Crew], stage: Stage, rows: Tensor, tick: int) -> None:
    """Takes one step of a group's clock."""
    seen = side_by_side([crew.seen(stage.streams, p.place) for crew in crews for p in crew.peers])
    _, gradients = stage.stacked.gradients(rows, seen, fused=len(rows) == GROUP_ROWS)
    at = 0
    for crew in crews:
        crew.inner_step(tick, gradients[at : at + crew.plan.peers])
        at += crew.plan.peers
        crew.after_step(tick + 1)


def _grouped(plans: Sequence[Plan]) -> list[list[Plan]]:
    """Packs whole crews into groups of at most GROUP_ROWS rows."""
    groups: list[list[Plan]] = []
    for plan in sorted(plans, key=lambda plan: -plan.peers):
        for group in groups:
            if sum(one.peers for one in group) + plan.peers <= GROUP_ROWS:
                group.append(plan)
                break
        else:
            groups.append([plan])
    return groups


def _curves(
    crews: dict[str, Crew],
    stage: Stage,
    ticks: dict[str, int],
    curves: dict[str, list[list[float]]],
    done: int,
) -> None:
    """Measures the averages of the crews that are at a point of their curve."""
    due = [name for name, all_ in ticks.items() if done <= all_ and done % max(1, all_ // CURVE_POINTS) == 0]
    for slot in sorted({crews[name].plan.slot for name in due}):
        some = [name for name in due if crews[name].plan.slot == slot]
        losses = stage.measure([crews[name].state.average for name in some], slot, CURVE_CLIPS)
        for name, loss in zip(some, losses.mean(1), strict=True):
            curves[name].append([done, round(float(loss), 5)])


def _leave(crew: Crew, stage: Stage, curve: list[list[float]], results: Path, wall_s: float) -> None:
    """Writes what came out of a plan."""
    rows = [crew.state.average, *crew.others, crew.state.weights]
    losses = stage.measure(rows, crew.plan.slot, FINAL_CLIPS)
    names = [f"average {decay}" for decay in EMA_DECAYS] + ["weights"]
    numbers = {peer_name(i): f"peer-{i:03d}" for i in range(crew.joined)}
    told = Counter(f"{code} {numbers[maker]}" for maker, code in crew.checks.refused)
    facts: dict[str, Any] = {
        "plan": crew.plan.model_dump(),
        "parameters": stage.stacked.parameters,
        "loss": dict(zip(names, (round(float(loss), 6) for loss in losses.mean(1)), strict=True)),
        "curve": curve,
        "update_bytes": round(float(np.mean(crew.sent_bytes))) if crew.sent_bytes else 0,
        "counted": {numbers[maker]: count for maker, count in sorted(crew.counted.items())},
        "refused": dict(sorted(told.items())),
        "wall_s": round(wall_s),
    }
    results.mkdir(parents=True, exist_ok=True)
    write_atomic(results / f"{crew.plan.name}.json", json.dumps(facts, indent=1) + "\n")
