"""What a run's RunSpec becomes by the notices that let it grow: more clips, more experts, fewer experts.

    add-clips      its shards join the run
    add-expert     once its `parts` add-clips are there: their shards stand in for all of the parent's,
                   the run has one expert more, and the router one output more
    drop-expert    the expert is out of the mixture at once; once its `parts` add-clips are there, their
                   shards stand in for its own, and the router is trained without it

The parts of an add-expert or drop-expert are the next add-clips after it; until the last one is there they
change nothing. Another add-expert or drop-expert before that gives them up. What cannot be done (a wrong
number, a parent that is gone, a half without clips) changes nothing, and neither do its parts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from paris_p2p.owner_records import AddClips, AddedShard, AddExpert, AnyChange, DropExpert
from paris_p2p.spec import MAX_GATE_SHARDS, MAX_TRAIN_SHARDS, RunSpec, ShardRef

MAX_EXPERTS = 256
SPLITS: tuple[Literal["train", "gate"], ...] = ("train", "gate")


@dataclass(frozen=True)
class Group:
    """An add-expert or drop-expert that waits for its parts."""

    change: AddExpert | DropExpert
    parts: tuple[AddClips, ...] = ()

    @property
    def is_whole(self) -> bool:
        return len(self.parts) >= self.change.parts

    @property
    def shards(self) -> tuple[AddedShard, ...]:
        return tuple(shard for part in self.parts for shard in part.shards)


def grown(spec: RunSpec, changes: Iterable[AnyChange]) -> RunSpec:
    """Returns the RunSpec after the changes, in order; those that do not grow a run are passed over."""
    for after in growing(spec, changes):
        spec = after
    return spec


def growing(spec: RunSpec, changes: Iterable[AnyChange]) -> Iterator[RunSpec]:
    """Yields the RunSpec after each of the changes, in order; the same object where one did not grow it."""
    waiting: Group | None = None
    there = _blobs(spec)  # kept from one notice to the next: a run may grow by a thousand
    for change in changes:
        if isinstance(change, AddExpert | DropExpert):
            waiting = Group(change)
            if isinstance(change, DropExpert):
                spec = _dropped(spec, change)
        elif isinstance(change, AddClips):
            if waiting is None:
                spec = _with_shards(spec, change.shards, there)
                live = _live(spec)
                there.update(shard.blob.id for shard in change.shards if shard.cluster in live)
            else:
                waiting = replace(waiting, parts=(*waiting.parts, change))
        if waiting is not None and waiting.is_whole:
            spec, waiting = _completed(spec, waiting), None
            there = _blobs(spec)
        yield spec


def why_not(spec: RunSpec, change: AddExpert | DropExpert) -> str:
    """Returns why a run cannot grow so, in a person's words; empty where it can."""
    live = [k for k in range(spec.experts) if k not in spec.dropped_experts]
    if isinstance(change, DropExpert):
        if change.expert >= spec.experts:
            return f"there is no expert-{change.expert}; the run has {', '.join(spec.slots)}"
        if live == [change.expert]:
            return f"expert-{change.expert} is the only one left"
        return ""
    if change.parent not in live:
        return f"there is no expert-{change.parent} to split; the run has {', '.join(spec.slots)}"
    if change.child != spec.experts:
        return f"the next expert is expert-{spec.experts}, not expert-{change.child}: no name is used twice"
    return "" if spec.experts < MAX_EXPERTS else f"a run has at most {MAX_EXPERTS} experts"


def _dropped(spec: RunSpec, change: DropExpert) -> RunSpec:
    if why_not(spec, change):
        return spec
    return spec.model_copy(update={"dropped_experts": tuple(sorted({*spec.dropped_experts, change.expert}))})


def _completed(spec: RunSpec, group: Group) -> RunSpec:
    """Returns the RunSpec once all parts of a group are there; as it was where the group cannot be."""
    change = group.change
    if isinstance(change, DropExpert):
        labels = {shard.cluster for shard in spec.train_shards + spec.gate_shards}
        if change.expert not in spec.dropped_experts or change.expert not in labels:
            return spec
        left = _without_shards(spec, change.expert)
        return _with_shards(left, group.shards, _blobs(left))
    return spec if why_not(spec, change) else _split(spec, change, group.shards)


def _split(spec: RunSpec, change: AddExpert, shards: tuple[AddedShard, ...]) -> RunSpec:
    halves = {change.parent, change.child}
    mine = tuple(shard for shard in shards if shard.cluster in halves and shard.clips)
    if {(shard.split, shard.cluster) for shard in mine} != {(s, k) for s in SPLITS for k in halves}:
        return spec  # a half could not be trained, or not be checked
    router = spec.router.model_copy(update={"config": {**spec.router.config, "experts": spec.experts + 1}})
    # one more of the same kind
    ddpm = (
        (*spec.training.ddpm_experts, change.child) if change.parent in spec.training.ddpm_experts else None
    )
    training = spec.training if ddpm is None else spec.training.model_copy(update={"ddpm_experts": ddpm})
    grown = _without_shards(spec, change.parent).model_copy(
        update={
            "experts": spec.experts + 1,
            "parents": (*spec.parents, change.parent),
            "router": router,
            "training": training,
        }
    )
    return _with_shards(grown, mine, _blobs(grown))


def _without_shards(spec: RunSpec, cluster: int) -> RunSpec:
    def rest(shards: tuple[ShardRef, ...]) -> tuple[ShardRef, ...]:
        return tuple(shard for shard in shards if shard.cluster != cluster)

    return spec.model_copy(
        update={"train_shards": rest(spec.train_shards), "gate_shards": rest(spec.gate_shards)}
    )


def _blobs(spec: RunSpec) -> set[str]:
    return {shard.blob.id for shard in spec.train_shards + spec.gate_shards}


def _live(spec: RunSpec) -> set[int]:
    return set(range(spec.experts)) - set(spec.dropped_experts)


def _with_shards(spec: RunSpec, shards: Iterable[AddedShard], there: Collection[str]) -> RunSpec:
    """Returns the RunSpec with more shards; those of a cluster without an expert, those that are `there`
    already, and those beyond what a RunSpec may name, are left out.
    """
    live = _live(spec)
    added = {shard.blob.id: shard for shard in shards if shard.cluster in live and shard.blob.id not in there}

    def of(split: str) -> tuple[ShardRef, ...]:
        return tuple(
            ShardRef(blob=shard.blob, clips=shard.clips, cluster=shard.cluster)
            for shard in added.values()
            if shard.split == split
        )

    return spec.model_copy(
        update={
            "train_shards": (spec.train_shards + of("train"))[:MAX_TRAIN_SHARDS],
            "gate_shards": (spec.gate_shards + of("gate"))[:MAX_GATE_SHARDS],
        }
    )
