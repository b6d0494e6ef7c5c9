"""What a run's RunSpec becomes by the notices that let it grow: more clips, more experts, fewer experts."""

from __future__ import annotations

from collections.abc import Iterable

from paris_p2p.owner_records import AddClips, AnyChange
from paris_p2p.spec import RunSpec, ShardRef


def grown(spec: RunSpec, changes: Iterable[AnyChange]) -> RunSpec:
    """Returns the RunSpec after the changes, in order; those that do not grow a run are passed over."""
    for change in changes:
        if isinstance(change, AddClips):
            spec = _with_clips(spec, change)
    return spec


def _with_clips(spec: RunSpec, change: AddClips) -> RunSpec:
    added = [shard for shard in change.shards if shard.cluster < spec.experts]

    def of(split: str) -> tuple[ShardRef, ...]:
        return tuple(
            ShardRef(blob=shard.blob, clips=shard.clips, cluster=shard.cluster)
            for shard in added
            if shard.split == split
        )

    return spec.model_copy(
        update={
            "train_shards": spec.train_shards + of("train"),
            "gate_shards": spec.gate_shards + of("gate"),
        }
    )
