"""The jobs that a peer gives its trainer and its gate, with what the owner's notices changed in the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paris_p2p.node.run_node import RunNode
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.records import BlobRef
from paris_p2p.rules.shard_spans import shard_times
from paris_p2p.spec import ROUTER, RunSpec
from paris_p2p.training.messages import ShardSpan, TrainJob


def train_job(
    node: RunNode, slot: str, number: int, settings: PeerSettings, paths: Sequence[Path], out_dir: Path
) -> TrainJob:
    """Returns the job of training a slot by the first `number` notices, with the files of `clip_blobs`; the
    outbox says what it goes on from.
    """
    spec = node.state.spec_at(number)
    train = spec.shards_for(slot, "train")
    return TrainJob(
        run=node.run,
        slot=slot,
        spec_path=node.spec_file,
        **changed_by_notices(node, slot, number),
        shard_paths=tuple(paths[: len(train)]),
        shard_clusters=tuple(shard.cluster for shard in train),
        calibration_shard_paths=tuple(paths[len(train) :]),
        out_dir=out_dir,
        device=settings.device,
        threads=settings.threads,
        micro_batch_clips=settings.micro_batch_clips,
        compile=settings.compile,
        max_memory_bytes=settings.max_memory_bytes,
        max_vram_bytes=settings.max_vram_bytes,
        checkpoint_s=spec.timing.checkpoint_s,
    )


def clip_blobs(spec: RunSpec, slot: str) -> tuple[BlobRef, ...]:
    """Returns what training a slot reads: its train shards, and after them what a router is calibrated on."""
    more = spec.calibration_shards if slot == ROUTER else ()
    return tuple(shard.blob for shard in (*spec.shards_for(slot, "train"), *more))


def changed_by_notices(node: RunNode, slot: str, number: int) -> dict[str, Any]:
    """Returns a job's fields that say what the first `number` notices changed: none where there is none."""
    if not number:
        return {}
    return {
        "effective_path": node.spec_file_for(number),
        "notices": number,
        "spans": tuple(
            ShardSpan(clips=one.shard.clips, since=one.since, until=one.until)
            for one in shard_times(node.state, slot)
        ),
    }


def fewer_experts(node: RunNode, slot: str, before: int, after: int) -> int:
    """Returns how many experts a router's checkpoint of notice `before` knows, where the run has more by
    notice `after`; 0 where it has not.
    """
    if slot != ROUTER or before >= after:
        return 0
    had = node.state.spec_at(before).experts
    return had if had < node.state.spec_at(after).experts else 0
