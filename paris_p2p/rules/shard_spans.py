"""Which shards a slot ever had, and between which notices: a pure function of the run's state.

A lineage goes on across notices that change its clips, on every machine in the same order
(docs/protocol.md, "Growth").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from paris_p2p.rules.growth import growing
from paris_p2p.rules.run_state import RunState
from paris_p2p.spec import ShardRef


@dataclass(frozen=True)
class ShardTime:
    """One train shard of a slot: which notice brought it, and which took it away; 0 for none."""

    shard: ShardRef
    since: int = 0
    until: int = 0


def shard_times(state: RunState, slot: str) -> tuple[ShardTime, ...]:
    """Returns all train shards that the slot ever had, in their order; none where no notice changed them."""
    signed = state.signed
    there: Sequence[ShardRef] = signed.shards_for(slot, "train")
    times, before, changed = [ShardTime(shard) for shard in there], signed, False
    for number, spec in enumerate(growing(signed, (one.record.change for one in state.notices)), 1):
        if spec is before:
            continue
        before, now = spec, spec.shards_for(slot, "train")
        if now == there:
            continue
        there, changed = now, True
        times = _after(times, now, number)
    return tuple(times) if changed else ()


def _after(times: Sequence[ShardTime], now: Sequence[ShardRef], number: int) -> list[ShardTime]:
    """Returns the shards' times once notice `number` made `now` of those that were there: some of them, in
    their order, and then others.
    """
    kept, after = 0, []
    for one in times:
        if not one.until and kept < len(now) and now[kept] == one.shard:
            kept += 1
        elif not one.until:
            one = replace(one, until=number)
        after.append(one)
    return after + [ShardTime(shard, since=number) for shard in now[kept:]]
