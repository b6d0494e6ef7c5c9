"""Turns prepared additions into the owner's notices: which shards join the run, once its store has them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from paris_p2p.data.addition import Addition, additions_of
from paris_p2p.disk import write_atomic
from paris_p2p.errors import DataError, UsageError
from paris_p2p.owner_records import MAX_SHARDS, AddClips, AddedShard, AnyChange
from paris_p2p.preparation.create import load_run
from paris_p2p.preparation.owner_shards import OwnerShards
from paris_p2p.rules.growth import grown
from paris_p2p.spec import MAX_GATE_SHARDS, MAX_TRAIN_SHARDS, RunSpec

BLOBS_FILE = "blobs.json"  # in an addition's folder: what a notice says of its shards


def add_clips_changes(folder: Path, said: Sequence[AnyChange]) -> list[AddClips]:
    """Returns what the owner is to say so that all additions in a run's folder join the run, a notice each.

    `said` are the changes of the run's notices so far, in order: what they added is not added again. The
    shards are put into the owner's node's store there, sealed where the run asks for it; the node may be
    running. UsageError where there is nothing to add or no room, DataError where an addition is damaged or
    has clips for an expert that is gone.
    """
    run = load_run(folder)
    spec = grown(run.record, said)
    named = {shard.blob.id for change in said if isinstance(change, AddClips) for shard in change.shards}
    store = OwnerShards(folder, run)
    fresh: list[AddedShard] = []
    additions = additions_of(folder)
    for addition in additions:
        shards = _shards_of(folder, addition, store)
        if all(shard.blob.id in named for shard in shards):
            continue
        _check_clusters(folder, addition, spec)
        fresh += [shard for shard in shards if shard.blob.id not in named]
    if not fresh:
        there = f"all {len(additions)} additions in {folder} were said already" if additions else ""
        raise UsageError(
            f"{there or f'{folder} has no addition'}; prepare more clips with `paris-run prepare MORE --into "
            f"{folder}` first"
        )
    _check_room(spec, fresh)
    return [AddClips(shards=tuple(fresh[at : at + MAX_SHARDS])) for at in range(0, len(fresh), MAX_SHARDS)]


def _shards_of(folder: Path, addition: Addition, store: OwnerShards) -> list[AddedShard]:
    """Returns an addition's train and gate shards as notices name them.

    They are put into the store once: later, under another key, the same shard would be another blob.
    """
    path = folder / addition.folder / BLOBS_FILE
    known = _known(path)
    if known is not None and all(store.store.has(shard.blob.id) for shard in known):
        return known
    if not addition.is_whole(folder):
        raise DataError(
            f"shards of addition {addition.number} in {folder} are missing or cut; prepare its clips again "
            "with the same command, which makes them anew"
        )
    chosen = [shard for shard in addition.shards if shard.split in ("train", "gate")]
    shards = [store.add(folder / shard.path, shard.split, shard.cluster, shard.clips) for shard in chosen]
    write_atomic(path, json.dumps([shard.model_dump() for shard in shards], indent=1) + "\n")
    return shards


def _known(path: Path) -> list[AddedShard] | None:
    try:
        rows = json.loads(path.read_bytes())
        return [AddedShard.model_validate(row) for row in rows]
    except (OSError, ValueError):
        return None  # they are put into the store again


def _check_clusters(folder: Path, addition: Addition, spec: RunSpec) -> None:
    live = set(range(spec.experts)) - set(spec.dropped_experts)
    gone = sorted({shard.cluster for shard in addition.shards} - live)
    if gone:
        raise DataError(
            f"addition {addition.number} has clips for expert-{gone[0]}, which the run no longer has; "
            f"delete {folder / addition.folder}.json and prepare those clips again"
        )


def _check_room(spec: RunSpec, fresh: Iterable[AddedShard]) -> None:
    """Raises UsageError where a RunSpec could not name the shards too."""
    more: Counter[str] = Counter(shard.split for shard in fresh)
    for split, there, most in (
        ("train", len(spec.train_shards), MAX_TRAIN_SHARDS),
        ("gate", len(spec.gate_shards), MAX_GATE_SHARDS),
    ):
        if there + more[split] > most:
            raise UsageError(
                f"{more[split]} more {split} shards beside {there} do not fit: a run has at most {most}"
            )
