"""Chooses how many clips of a batch go through the network at once, within the memory allowed."""

from __future__ import annotations

import torch
from torch import Tensor

from paris_p2p.data.batches import Batch
from paris_p2p.device import available_bytes, resident_bytes
from paris_p2p.errors import MemoryLimitError
from paris_p2p.training.learner import Learner
from paris_p2p.training.objective import train_losses

AVAILABLE_SHARE = 0.5  # of what the machine could still give, when no limit was set
WORKSPACE = 1.5  # temporaries beside what backward needs


def choose_micro_batch(learner: Learner, batch: Batch, wanted_clips: int, max_memory_bytes: int) -> int:
    """Returns `wanted_clips` when it is given, else what fits.

    On a GPU that is the whole batch, to be halved when it does not fit there. On a CPU it is what fits into
    the limit or, without one, into half of the memory that is free. MemoryLimitError.
    """
    if wanted_clips:
        return min(wanted_clips, len(batch))
    if learner.device.cuda:
        return len(batch)
    used = resident_bytes() + 4 * learner.parameters  # gradients are still to come
    limit = max_memory_bytes or resident_bytes() + int(available_bytes() * AVAILABLE_SHARE)
    clip_bytes = saved_bytes_per_clip(learner, batch)
    if used + clip_bytes > limit and learner.recompute():
        clip_bytes = saved_bytes_per_clip(learner, batch)
    return fit_micro_batch(len(batch), used, clip_bytes, limit)


def fit_micro_batch(batch_clips: int, used_bytes: int, clip_bytes: int, limit_bytes: int) -> int:
    """Returns the largest even share of the batch whose clips fit beside what is used.

    MemoryLimitError when not one does.
    """
    fit = (limit_bytes - used_bytes) // max(1, clip_bytes)
    if fit < 1:
        raise MemoryLimitError(
            f"training needs {(used_bytes + clip_bytes) >> 20} MiB for one clip at a time, "
            f"{limit_bytes >> 20} MiB are allowed; raise --max-memory, or take a slot of a smaller run"
        )
    parts = -(-batch_clips // min(fit, batch_clips))
    return -(-batch_clips // parts)


def saved_bytes_per_clip(learner: Learner, batch: Batch) -> int:
    """Returns what one clip takes until backward is done.

    That is the tensors that autograd keeps, counted in a forward pass.
    """
    kept: dict[int, int] = {}
    own = {weight.untyped_storage().data_ptr() for weight in learner.weights.values()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), learner.device.autocast():
        train_losses(learner.spec, learner.slot, learner.network, batch.part(0, 1))
    return int(sum(kept.values()) * WORKSPACE) + 1
