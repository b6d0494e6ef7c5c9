"""Opens the device that a job trains on, within the memory that the job allows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from paris_p2p.device import Device, compute_repeatably, limit_cuda_memory, pick_device, set_threads
from paris_p2p.errors import MemoryLimitError
from paris_p2p.training.messages import SpeedJob, TrainJob


@contextmanager
def open_device(job: TrainJob | SpeedJob) -> Iterator[Device]:
    """Yields the job's device, set to compute repeatably; DeviceError where it is not there.

    It raises MemoryLimitError where the GPU has no room for weights and moments, which no smaller micro-batch
    mends: a peer takes another slot then, instead of this one again.
    """
    set_threads(job.threads)
    device = pick_device(job.device)
    compute_repeatably(device)
    limit_cuda_memory(device, job.max_vram_bytes)
    try:
        yield device
    except torch.OutOfMemoryError as error:
        raise MemoryLimitError(
            f"training {job.slot} does not fit on {device}, whatever the micro-batch: {str(error)[:200]}; "
            "allow more memory, or take a slot of a smaller run"
        ) from error
