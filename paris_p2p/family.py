"""Says which experts of a run were split from which, and what became of those that were dropped, from its
effective RunSpec (docs/protocol.md, "Growth").
"""

from __future__ import annotations

from collections.abc import Iterator

from paris_p2p.spec import ROUTER, RunSpec, cluster_of


def parent_of(spec: RunSpec, slot: str) -> str:
    """Returns the slot that an expert was split from; empty where it was there from the start."""
    first = spec.experts - len(spec.parents)
    if slot == ROUTER or cluster_of(slot) < first:
        return ""
    return f"expert-{spec.parents[cluster_of(slot) - first]}"


def ancestors(spec: RunSpec, slot: str) -> Iterator[str]:
    """Yields the slot's parent, the parent's parent and so on."""
    while slot := parent_of(spec, slot):
        yield slot


def parents_from(spec: RunSpec, experts: int) -> tuple[int, ...]:
    """Returns the parents of the experts from number `experts` on, in order; none for 0.

    They are what a router of `experts` outputs lacks.
    """
    return spec.parents[max(0, experts - (spec.experts - len(spec.parents))) :] if experts else ()


def silent_experts(spec: RunSpec) -> tuple[int, ...]:
    """Returns the dropped experts whose clips have all gone to others: the router is trained and measured
    without them.
    """
    if not spec.dropped_experts:
        return ()
    labels = {shard.cluster for shard in spec.train_shards + spec.gate_shards}
    return tuple(k for k in spec.dropped_experts if k not in labels)


def as_signed(spec: RunSpec, signed: RunSpec) -> RunSpec:
    """Returns the RunSpec with all that notices can change as the owner first signed it."""
    kept = ("experts", "parents", "dropped_experts", "timing", "train_shards", "gate_shards")
    training = {
        name: getattr(signed.training, name) for name in ("total_steps", "decay_steps", "ddpm_experts")
    }
    config = {**spec.router.config, "experts": signed.experts}
    return spec.model_copy(
        update={name: getattr(signed, name) for name in kept}
        | {
            "training": spec.training.model_copy(update=training),
            "gate": spec.gate.model_copy(update={"tolerance": signed.gate.tolerance}),
            "router": spec.router.model_copy(update={"config": config}),
        }
    )


def is_grown(spec: RunSpec, signed: RunSpec) -> bool:
    """Tells whether a RunSpec can be another's with experts split and dropped: its numbers fit each other."""
    live = set(range(spec.experts)) - set(spec.dropped_experts)
    return (
        spec.experts == signed.experts + len(spec.parents)
        and spec.router.config.get("experts") == spec.experts
        and all(parent < signed.experts + i for i, parent in enumerate(spec.parents))
        and list(spec.dropped_experts) == sorted(set(spec.dropped_experts))
        and 0 < len(live) == spec.experts - len(spec.dropped_experts)
    )
