"""Times how fast this machine trains a slot, in a process of its own: `python -m
paris_p2p.training.speed_trial`.

A SpeedJob comes on stdin, a SpeedResult goes to stdout. The steps are those of training (learner.py), on
clips of the run's shape that are noise: no clip of the run is needed, and nothing is kept. Blocks are not
fused, which on a GPU takes longer than the trial.
Legend: B clips, C T H W latents, L text tokens, D token width, P pooled width, F first-frame features.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from pydantic import ValidationError

from paris_p2p.errors import ParisError
from paris_p2p.training.child import open_line
from paris_p2p.training.messages import SpeedJob, SpeedResult

if TYPE_CHECKING:
    from paris_p2p.data.batches import Batch
    from paris_p2p.spec import RunSpec
    from paris_p2p.training.learner import Learner


def main() -> int:
    """Returns the exit status: 0 after a result, which may be that the slot does not fit."""
    line = open_line()
    try:
        job = SpeedJob.model_validate_json(line.receive())
        line.send(time_slot(job))
    except (ParisError, ValidationError) as error:
        line.send(SpeedResult(error=str(error)[:500]))
    return 0


def time_slot(job: SpeedJob) -> SpeedResult:
    """Returns the clips a second of a slot's training; ParisError where it does not fit here."""
    # Imports come after the guards: torch takes seconds to load.
    from paris_p2p.training.job_device import open_device
    from paris_p2p.training.learner import Learner
    from paris_p2p.training.memory import choose_micro_batch
    from paris_p2p.training.objective import batch_clips

    spec = _spec_of(job)
    with open_device(job) as device:
        learner = Learner(job.run, spec, job.slot, device)
        size = batch_clips(spec, job.slot)
        batch = noise_batch(spec, job.slot, size).to(device.torch)
        learner.micro_batch_clips = choose_micro_batch(
            learner, batch, job.micro_batch_clips, job.max_memory_bytes
        )
        clips, taken_s = _timed(learner, batch, job.trial_s)
        return SpeedResult(
            clips_per_s=clips / taken_s,
            steps=learner.steps,
            micro_batch_clips=learner.micro_batch_clips,
            batch_clips=size,
            recomputes=learner.recomputes,
            device=str(device),
            precision=device.precision,
            memory_bytes=device.memory_bytes(),
        )


def _timed(learner: Learner, batch: Batch, trial_s: float) -> tuple[int, float]:
    """Returns clips and seconds of whole steps; where those take long, of steps with a part of their clips.

    The first, which allocates, counts only where it took longer than the trial.
    """
    part = batch.part(0, learner.micro_batch_clips)
    until_s = time.monotonic() + trial_s
    clips, taken_s = _step(learner, part)
    if taken_s > trial_s:
        return clips, taken_s
    timed = batch if taken_s * len(batch) / len(part) < trial_s / 2 else part
    clips, taken_s = 0, 0.0
    while not clips or time.monotonic() < until_s:
        more, more_s = _step(learner, timed)
        clips, taken_s = clips + more, taken_s + more_s
    return clips, taken_s


def _step(learner: Learner, batch: Batch) -> tuple[int, float]:
    """Returns clips and seconds of one step; a GPU is waited for, since the step reads its loss."""
    began_s = time.monotonic()
    learner.step(batch)
    return len(batch), time.monotonic() - began_s


def noise_batch(spec: RunSpec, slot: str, clips: int) -> Batch:
    """Returns a batch of the run's shapes that holds noise."""
    import torch

    from paris_p2p.data.batches import Batch
    from paris_p2p.data.draws import UNIFORMS
    from paris_p2p.spec import ROUTER, cluster_of

    made = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(clips, *shape, generator=made)

    text = spec.text_shape
    cluster = torch.arange(clips) % spec.experts if slot == ROUTER else torch.full((clips,), cluster_of(slot))
    return Batch(
        first_clip=0,
        latent=noise(*spec.latent.shape).half(),  # [B C T H W]
        tokens=noise(text.tokens, text.dim).half(),  # [B L D]
        mask=torch.ones(clips, text.tokens, dtype=torch.bool),
        pooled=noise(text.pooled_dim).half(),  # [B P]
        cluster=cluster,
        noise=noise(*spec.latent.shape),
        normal=noise().double(),
        uniforms=torch.rand(clips, UNIFORMS, generator=made, dtype=torch.float64),
        first=noise(spec.first_width).half() if spec.first_width else None,  # [B F]
    )


def _spec_of(job: SpeedJob) -> RunSpec:
    from paris_p2p.run_file import read_effective, read_run

    signed = read_run(job.spec_path, job.run, mend="look again").record
    return signed if job.effective_path is None else read_effective(job.effective_path, signed)


if __name__ == "__main__":
    sys.exit(main())
