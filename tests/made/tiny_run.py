"""Makes a run small enough to train in milliseconds, and jobs on it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.bare_run import bare_run, router_of
from paris_p2p.identity import Identity
from paris_p2p.model.presets import Config, expert_config
from paris_p2p.records import BlobRef
from paris_p2p.spec import (
    ClipShape,
    GateSpec,
    NetworkSpec,
    Pinned,
    RunSpec,
    ShardRef,
    TrainingSpec,
    sign_run,
)
from paris_p2p.training.messages import CheckpointReady, Event, GateJob, TrainJob, parse_event
from paris_p2p.training.train import train
from tests.data.shards import LATENT, TEXT, write_shard

EXPERTS, TRAIN_CLIPS, GATE_CLIPS = 2, 10, 6  # clips: of each cluster
RATES = {"learning_rate": 3e-3, "router_learning_rate": 3e-3}
TRAINING = TrainingSpec(batch_clips=4, router_batch_clips=4, warmup_steps=5, weight_decay=0.01, **RATES)


@dataclass
class TinyRun:
    """Holds a run of two experts and a router; shards and the signed spec lie in `folder`."""

    folder: Path
    training: TrainingSpec = TRAINING
    gate: GateSpec = field(default_factory=lambda: GateSpec(clips=12))
    preset: str = "nano"  # of the experts
    initial: Path | None = None  # what the experts start from
    first_width: int = 0  # of the features of first frames in the shards
    train_clips: int = TRAIN_CLIPS  # of each cluster
    gate_clips: int = GATE_CLIPS
    calibration_clips: int = 0  # of each cluster
    write: Callable[[Path, int, int, int, int], Path] = write_shard  # a shard

    def __post_init__(self) -> None:
        self.shards = {
            split: [
                self.write(self.folder / split / f"{k}.tar", k, clips, first_seed, self.first_width)
                for k in range(EXPERTS)
            ]
            for split, clips, first_seed in (
                ("train", self.train_clips, 0),
                ("gate", self.gate_clips, 500),
                ("calibration", self.calibration_clips, 900),
            )
            if clips
        }
        self.spec = self._spec()
        signed = sign_run(Identity.from_private_bytes(bytes(32)), self.spec)
        self.run, self.spec_path = signed.id, self.folder / "run.spec"
        self.spec_path.write_bytes(signed.data)

    def _spec(self) -> RunSpec:
        def refs(split: str, clips: int) -> tuple[ShardRef, ...]:
            return tuple(
                ShardRef(blob=BlobRef(id="0" * 64, size_bytes=path.stat().st_size), clips=clips, cluster=k)
                for k, path in enumerate(self.shards.get(split, ()))
            )

        return bare_run(
            LATENT,
            TEXT,
            name="tiny",
            purpose="tests",
            data_licence="CC0",
            weights_licence="CC0",
            rng_seed=1,
            clip=ClipShape(frames=2, height=8, width=8, fps=8.0),
            experts=EXPERTS,
            expert=NetworkSpec(preset=self.preset, config=self._expert_config()),
            router=router_of("nano", LATENT, TEXT, EXPERTS, self.first_width),
            first_features=Pinned(name="efficientnet-lite0") if self.first_width else None,
            training=self.training,
            gate=self.gate,
            train_shards=refs("train", self.train_clips),
            gate_shards=refs("gate", self.gate_clips),
            calibration_shards=refs("calibration", self.calibration_clips),
            initial={"expert": BlobRef(id="0" * 64, size_bytes=1)} if self.initial else {},
        )

    def _expert_config(self) -> Config:
        return expert_config(self.preset, LATENT, TEXT, first_frame=self.training.first_frame_rate > 0)

    def train_job(self, slot: str = "expert-1", *, out: str = "out", **changes: Any) -> TrainJob:
        (self.folder / out).mkdir(exist_ok=True)
        fields = {
            "checkpoint_s": 0,
            "max_steps": 6,
            "out_dir": self.folder / out,
            "initial_path": self.initial,
            "calibration_shard_paths": tuple(self.shards.get("calibration", ())) if slot == "router" else (),
        } | changes
        return TrainJob(**(self._common(slot, "train") | fields))

    def resume(self, ready: CheckpointReady) -> dict[str, Any]:
        """Returns what a job needs to go on from a checkpoint."""
        return {"resume_path": ready.resume_path, "resume_steps": ready.steps, "resume_clips": ready.clips}

    def gate_job(self, ready: CheckpointReady, slot: str = "expert-1", **changes: Any) -> GateJob:
        made = {
            "weights_path": ready.weights_path,
            "resume_path": ready.resume_path,
            "steps": ready.steps,
            "clips": ready.clips,
        }
        return GateJob(**(self._common(slot, "gate") | {"card": "12" * 32} | made | changes))

    def _common(self, slot: str, split: str) -> dict[str, Any]:
        chosen = [(k, path) for k, path in enumerate(self.shards[split]) if slot in ("router", f"expert-{k}")]
        return {
            "run": self.run,
            "slot": slot,
            "spec_path": self.spec_path,
            "shard_paths": tuple(path for _, path in chosen),
            "shard_clusters": tuple(k for k, _ in chosen),
            "device": "cpu",
            "threads": 1,
        }


def start_process(module: str, *, line: str) -> subprocess.Popen[bytes]:
    """Starts `python -m module` with one line on its stdin, which stays open."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", module], stdin=-1, stdout=-1, stderr=-1, env=environment
    )
    assert process.stdin is not None
    process.stdin.write(line.encode())
    process.stdin.flush()
    return process


def train_in_process(job: TrainJob) -> list[Event]:
    """Returns all events of a trainer in a process of its own."""
    with start_process("paris_p2p.training.trainer", line=job.to_line()) as process:
        assert process.stdout is not None
        return [parse_event(line) for line in process.stdout]


def train_here(job: TrainJob) -> list[Event]:
    """Returns all events of the same training in this process."""
    torch.set_num_threads(1)
    events: list[Event] = []
    train(job, events.append, lambda: None)
    return events


def checkpoint_of(events: list[Event]) -> CheckpointReady:
    """Returns the last checkpoint among events."""
    return [event for event in events if isinstance(event, CheckpointReady)][-1]
