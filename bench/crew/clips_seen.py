"""Gives every peer its batches, which are the product's own, and holds the clips to measure on.

A stream is (run, slot, peer): the same one gives the same batches to every crew that is compared.
Legend: M rows, B clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from bench.crew.stacked import Seen
from paris_p2p.data.batches import Batch, ClipOrder, Draws, assemble, make_batch
from paris_p2p.data.clips import ClipSet
from paris_p2p.data.prepared import Prepared, Split
from paris_p2p.flow.times import flow_times
from paris_p2p.spec import TrainingSpec, cluster_of
from paris_p2p.training.objective import CAPTION_DRAW

HELD_OUT: tuple[Split, ...] = ("gate", "validation", "test")
MEASURED_AT_ONCE = 8


def open_split(folder: Path, slot: str, splits: Sequence[Split]) -> ClipSet:
    """Opens the clips of a slot's cluster in some splits."""
    prepared, cluster = Prepared.load(folder), cluster_of(slot)
    shards = [shard for shard in prepared.shards if shard.split in splits and shard.cluster == cluster]
    return ClipSet(
        [folder / shard.path for shard in shards],
        [cluster] * len(shards),
        latent=prepared.latent,
        text=prepared.text_shape,
    )


def seen_of(training: TrainingSpec, batch: Batch, t: Tensor | None = None) -> Seen:
    """Returns what one row sees of a batch, [1 B …]; without times of its own, as in training."""
    mask = batch.mask
    if t is None:
        shape = training.time_mean, training.time_std, training.time_shift
        t = flow_times(batch.normal, *shape, predicts_noise=False)
        mask = mask & ~(batch.uniforms[:, CAPTION_DRAW] < training.caption_dropout)[:, None]
    return Seen(
        batch.latent.float()[None], batch.noise[None], t[None], batch.tokens.float()[None], mask[None]
    )


def side_by_side(parts: Sequence[Seen]) -> Seen:
    """Stacks what rows see: each [1 B …] -> [M B …]."""
    names = ("latent", "noise", "t", "tokens", "mask")
    return Seen(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


class Streams:
    """Makes the batches of peers, each counted by its own clips."""

    def __init__(self, folder: Path, training: TrainingSpec):
        self.folder, self.training = folder, training
        self.clips = lru_cache(maxsize=8)(lambda slot: open_split(folder, slot, ("train",)))
        self._stream = lru_cache(maxsize=4096)(self._opened)
        self.batch = lru_cache(maxsize=256)(self._batch)

    def _opened(self, run: str, slot: str, peer: str, clips_of: str) -> tuple[ClipSet, ClipOrder, Draws]:
        draws = Draws.of(run, f"{slot}/{peer}")
        clips = self.clips(clips_of)
        return clips, ClipOrder(draws, len(clips)), draws

    def _batch(self, run: str, slot: str, peer: str, clips_of: str, step: int) -> Seen:
        """Returns the batch of a peer's own step; `clips_of` is the slot whose clips it trains on."""
        clips, order, draws = self._stream(run, slot, peer, clips_of)
        size = self.training.batch_clips
        return seen_of(self.training, make_batch(clips, order, draws, step * size, size))


def held_out(folder: Path, slot: str, training: TrainingSpec, count: int) -> list[Seen]:
    """Returns `count` clips to measure on, in batches, with fixed noise and times spread evenly.

    They are held-out clips of the slot's cluster, in their order, repeated with other noise where there are
    fewer. Each batch is of MEASURED_AT_ONCE clips.
    """
    clips = open_split(folder, slot, HELD_OUT)
    draws = Draws.of("0" * 64, f"crew/{slot}")
    parts = []
    for first in range(0, count, MEASURED_AT_ONCE):
        indexes = [(first + i) % len(clips) for i in range(MEASURED_AT_ONCE)]
        batch = assemble(clips, indexes, draws, first)
        even = (torch.arange(first, first + MEASURED_AT_ONCE) * 0.618034) % 1
        normal = torch.special.ndtri(even.double().clamp(1e-3, 1 - 1e-3))
        shape = training.time_mean, training.time_std, training.time_shift
        parts.append(seen_of(training, batch, flow_times(normal, *shape, predicts_noise=False)))
    return parts
