"""A trainer's process that holds memory and counts steps: what is real of it is the process."""

from __future__ import annotations

import sys
import time

from paris_p2p.training.child import open_line
from paris_p2p.training.messages import CheckpointReady, Command, Started, StepEvent, Stopped, TrainJob

HELD_BYTES = 200 << 20
_BATCH_CLIPS = 4


def main() -> int:
    """Counts until it is told to stop; then it writes a checkpoint and ends."""
    line = open_line()
    job = TrainJob.model_validate_json(line.receive())
    held = bytearray(HELD_BYTES)
    held[:: 1 << 12] = b"x" * len(held[:: 1 << 12])  # each page is touched
    steps = job.resume_steps
    line.send(
        Started(
            steps=steps,
            clips=steps * _BATCH_CLIPS,
            parameters=1,
            device="fake",
            precision="none",
            micro_batch_clips=_BATCH_CLIPS,
        )
    )
    while True:
        time.sleep(0.02)
        steps += 1
        clips = steps * _BATCH_CLIPS
        line.send(
            StepEvent(steps=steps, clips=clips, loss=1.0, clips_per_s=1.0, wait_share=0.0, memory_bytes=1)
        )
        if (raw := line.pending()) is None:
            continue
        weights, resume = job.out_dir / f"w{steps}", job.out_dir / f"r{steps}"
        weights.write_text(f"weights {steps}")
        resume.write_text(f"resume {steps}")
        line.send(
            CheckpointReady(
                weights_path=weights, resume_path=resume, steps=steps, clips=clips, train_loss=1.0
            )
        )
        if Command.model_validate_json(raw).command == "stop":
            line.send(Stopped(reason="told to"))
            return 0


if __name__ == "__main__":
    sys.exit(main())
