"""When a run's owner last asked for more training of a slot, which ends its rest (rest.py)."""

from __future__ import annotations

from paris_p2p.owner_records import AddClips, AnyChange, Extend
from paris_p2p.rules.run_state import RunState
from paris_p2p.spec import ROUTER, cluster_of


def woken_at_s(state: RunState, slot: str) -> float:
    """Returns the date of the newest notice that brought the slot clips or steps; 0 for none."""
    return max(
        (one.record.issued_at for one in state.notices if _asks_for_more(one.record.change, slot)),
        default=0.0,
    )


def _asks_for_more(change: AnyChange, slot: str) -> bool:
    if isinstance(change, Extend):
        return change.total_steps is not None or change.decay_steps is not None
    if not isinstance(change, AddClips):
        return False
    clusters = {shard.cluster for shard in change.shards if shard.split == "train"}
    return bool(clusters) if slot == ROUTER else cluster_of(slot) in clusters
