"""Says a run's notices with its owner's key, and trains its slots by what the run is then."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from paris_p2p.envelope import Envelope, seal
from paris_p2p.family import parent_of
from paris_p2p.identity import load_owner_key
from paris_p2p.kinds import SIGNED_LIFETIME_S
from paris_p2p.owner_records import AnyChange, NoticeRecord
from paris_p2p.preparation.create import KEY_FILE
from paris_p2p.rules.chain import Chain
from paris_p2p.rules.run_state import RunState, run_state
from paris_p2p.rules.shard_spans import shard_times
from paris_p2p.run_file import RUN_FILE, write_effective
from paris_p2p.spec import ROUTER, RunSpec
from paris_p2p.store.blobs import BlobStore
from paris_p2p.training.messages import CheckpointReady, Event, ShardSpan, TrainJob
from paris_p2p.training.train import train

PROCESSES = 2  # slots trained side by side, a thread each


class Word:
    """Holds a run's chain of notices as its owner says them."""

    def __init__(self, folder: Path, run: Envelope[RunSpec]) -> None:
        self.folder, self.run = folder, run
        self.owner = load_owner_key(folder / KEY_FILE, None)
        self.chain = Chain(run.id, run.signer)

    def say(self, changes: Iterable[AnyChange]) -> RunState:
        """Signs a notice for each change; returns what the run is then."""
        for change in changes:
            now_s = time.time()
            notice = NoticeRecord(
                run=self.run.id,
                seq=self.chain.number + 1,
                issued_at=now_s,
                expires_at=now_s + SIGNED_LIFETIME_S["notice"],
                previous=self.chain.head,
                change=change,
            )
            self.chain = self.chain.add(seal(self.owner, notice))
        return self.state()

    def state(self) -> RunState:
        return run_state(self.run.id, self.run.record, self.chain.notices, time.time())

    @property
    def said(self) -> list[AnyChange]:
        return [notice.record.change for notice in self.chain.notices]


@dataclass(frozen=True)
class Trained:
    """Holds the newest checkpoint of each slot."""

    checkpoints: Mapping[str, CheckpointReady] = field(default_factory=dict)
    experts: int = 0  # that the router knows

    @property
    def weights(self) -> dict[str, Path]:
        return {slot: ready.weights_path for slot, ready in self.checkpoints.items()}

    @property
    def clips(self) -> int:
        return sum(ready.clips for ready in self.checkpoints.values())


def go_on(folder: Path, state: RunState, before: Trained, steps: Mapping[str, int], name: str) -> Trained:
    """Trains slots to so many steps of their lineages, by what the run is now; returns their checkpoints."""
    jobs = [_job(folder, state, before, slot, until, name) for slot, until in steps.items()]
    with ProcessPoolExecutor(PROCESSES) as pool:
        made = dict(zip(steps, pool.map(_trained, jobs), strict=True))
    return replace(before, checkpoints={**before.checkpoints, **made}, experts=state.spec.experts)


def _job(folder: Path, state: RunState, before: Trained, slot: str, until: int, name: str) -> TrainJob:
    out = folder / "trained" / name / slot
    out.mkdir(parents=True, exist_ok=True)
    effective = out / "effective.json"
    write_effective(effective, state.spec)
    store = BlobStore(folder / "node" / "blobs")
    shards = state.spec.shards_for(slot, "train")
    return TrainJob(
        run=state.run,
        slot=slot,
        spec_path=folder / RUN_FILE,
        effective_path=effective,
        notices=state.number,
        spans=tuple(
            ShardSpan(clips=one.shard.clips, since=one.since, until=one.until)
            for one in shard_times(state, slot)
        ),
        shard_paths=tuple(store.path(shard.blob.id) for shard in shards),
        shard_clusters=tuple(shard.cluster for shard in shards),
        out_dir=out,
        device="cpu",
        threads=1,
        checkpoint_s=0,
        max_steps=until,
        **_start(state, before, slot),
    )


def _start(state: RunState, before: Trained, slot: str) -> dict[str, Any]:
    """Returns what a slot goes on from: its own checkpoint, its parent's, or nothing."""
    ready = before.checkpoints.get(slot)
    if ready is not None:
        grows = slot == ROUTER and before.experts != state.spec.experts
        counters = {"resume_steps": ready.steps, "resume_clips": ready.clips}
        return {"resume_path": ready.resume_path, "resume_experts": before.experts * grows, **counters}
    parent = before.checkpoints.get(parent_of(state.spec, slot))
    return {"parent_path": parent.weights_path} if parent is not None else {}


def _trained(job: TrainJob) -> CheckpointReady:
    last: dict[type[Event], Event] = {}
    train(job, lambda event: last.update({type(event): event}), lambda: None)
    ready = last[CheckpointReady]
    if not isinstance(ready, CheckpointReady):
        raise SystemExit(f"{job.slot} made no checkpoint")
    return ready
