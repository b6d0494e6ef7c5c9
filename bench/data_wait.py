"""Measures whether data starves training: the time that a short real training waited for batches.

    .venv/bin/python -m bench.data_wait PREPARED_FOLDER [--preset tiny] [--train-s 60]

Takes what `paris-run prepare` wrote, makes a run of it in a temporary folder, and starts the trainer's
process on its first expert. The first report is left out: until then files are opened and, on a GPU, blocks
compiled.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.bare_run import bare_run
from bench.row import print_row
from paris_p2p.data.prepared import Prepared
from paris_p2p.identity import Identity
from paris_p2p.records import BlobRef
from paris_p2p.spec import (
    ShardRef,
    TrainingSpec,
    sign_run,
)
from paris_p2p.training.messages import TrainJob

GOAL = 0.02
NOWHERE = BlobRef(id="0" * 64, size_bytes=1)  # nothing is sent: the shards are read where they lie


def job(folder: Path, out: Path, preset: str, batch: int, device: str) -> TrainJob:
    """Returns the first expert of a run of the prepared clips, as a trainer takes it."""
    prepared = Prepared.load(folder)
    shards = prepared.shards_for("train", 0)
    spec = bare_run(
        prepared.latent,
        prepared.text_shape,
        preset,
        name="data wait",
        created_at=time.time(),
        clip=prepared.clip,
        experts=prepared.experts,
        training=TrainingSpec(batch_clips=batch, learning_rate=3e-4),
        train_shards=tuple(
            ShardRef(blob=NOWHERE, clips=shard.clips, cluster=shard.cluster) for shard in shards
        ),
    )
    run = sign_run(Identity.generate(), spec)
    (out / "run.spec").write_bytes(run.data)
    return TrainJob(
        run=run.id,
        slot="expert-0",
        spec_path=out / "run.spec",
        shard_paths=tuple(folder / shard.path for shard in shards),
        shard_clusters=tuple(shard.cluster for shard in shards),
        out_dir=out,
        device=device,
        checkpoint_s=0,
    )


def waits(job: TrainJob, train_s: float) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Returns the trainer's step events after the first, and what it said when it started."""
    trainer = subprocess.Popen(
        [sys.executable, "-m", "paris_p2p.training.trainer"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    if trainer.stdin is None or trainer.stdout is None:
        raise RuntimeError("the trainer has no pipes")
    trainer.stdin.write(job.to_line())
    trainer.stdin.flush()
    events: list[dict[str, Any]] = []
    started: dict[str, Any] = {}
    ends_at: float | None = None
    for line in trainer.stdout:
        event = json.loads(line)
        if event["event"] == "started":
            started, ends_at = event, time.monotonic() + train_s
        elif event["event"] == "step":
            events.append(event)
        elif event["event"] == "failed":
            raise SystemExit(event["message"])
        if ends_at is not None and time.monotonic() > ends_at:
            break
    trainer.kill()
    trainer.wait()
    return events[1:], started


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--train-s", type=float, default=60.0)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="paris-wait-") as out:
        made = job(options.folder, Path(out), options.preset, options.batch, options.device)
        events, started = waits(made, options.train_s)
    if not events:
        raise SystemExit(
            f"the trainer said nothing twice within {options.train_s:g} s; give it longer with --train-s"
        )
    shares = [event["wait_share"] for event in events]
    rate = statistics.median(event["clips_per_s"] for event in events)
    mean = statistics.fmean(shares)
    what = (
        f"waiting for data, `{options.preset}` {started['parameters'] / 1e6:.1f}M on "
        f"{started['device']}, batch {options.batch}"
    )
    print_row(
        what,
        f"{mean:.2%} of the time, at most {max(shares):.2%} in a second or a step (wanted {GOAL:.0%}); "
        f"{rate:.1f} clips/s",
    )
    return int(mean > GOAL)


if __name__ == "__main__":
    sys.exit(main())
