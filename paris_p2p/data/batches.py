"""Makes batches as functions of (run, slot, clip counter): order, noise, times and dropout.

Nothing depends on the batch or micro-batch a clip falls into.
Legend: B clips, C channels, T latent frames, H height, W width, L text tokens, D token width, P pooled width,
F features of a first frame.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from paris_p2p.data.clip_order import ClipOrder as ClipOrder
from paris_p2p.data.clips import ClipSet
from paris_p2p.data.draws import Draws as Draws
from paris_p2p.errors import DataError

AHEAD_BATCHES = 2


@dataclass(frozen=True)
class Batch:
    """Holds the clips `first_clip ... first_clip + B - 1` of a lineage, with their noise and draws."""

    first_clip: int
    latent: Tensor  # [B C T H W] float16
    tokens: Tensor  # [B L D] float16
    mask: Tensor  # [B L] bool
    pooled: Tensor  # [B P] float16
    cluster: Tensor  # [B] int64
    noise: Tensor  # [B C T H W] float32
    normal: Tensor  # [B] float64
    uniforms: Tensor  # [B UNIFORMS] float64
    first: Tensor | None = None  # [B F] float16, features of the first frames where the clips have them

    def __len__(self) -> int:
        return len(self.latent)

    def part(self, start: int, stop: int) -> Batch:
        """Returns the clips [start, stop) of the batch, without copying."""
        return Batch(first_clip=self.first_clip + start, **self._each(lambda tensor: tensor[start:stop]))

    def where(self, rows: Tensor) -> Batch:
        """Returns the clips that `rows` [B] bool picks."""
        return Batch(first_clip=self.first_clip, **self._each(lambda tensor: tensor[rows]))

    def to(self, device: torch.device) -> Batch:
        return Batch(
            first_clip=self.first_clip, **self._each(lambda tensor: tensor.to(device, non_blocking=True))
        )

    def _each(self, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        known = ((name, getattr(self, name)) for name in _TENSORS)
        return {name: change(tensor) for name, tensor in known if tensor is not None}


_TENSORS = tuple(field.name for field in fields(Batch) if field.name != "first_clip")


def make_batch(clips: ClipSet, order: ClipOrder, draws: Draws, first_clip: int, batch_clips: int) -> Batch:
    """Makes the batch of the clip counters [first_clip, first_clip + batch_clips)."""
    counters = range(first_clip, first_clip + batch_clips)
    indexes = [order[counter] for counter in counters]
    return assemble(clips, indexes, draws, first_clip)


def assemble(clips: ClipSet, indexes: list[int], draws: Draws, first_clip: int) -> Batch:
    """Batches the clips at `indexes`, with the draws of the counters from first_clip on."""
    stored = [clips.stored(index) for index in indexes]
    shapes = {tuple(clip.latent.shape) for clip in stored}
    if len(shapes) != 1:
        raise DataError(f"clips of one slot differ in shape: {sorted(shapes)[:4]}; prepare the clips again")
    (shape,) = shapes
    firsts = [clip.first for clip in stored if clip.first is not None]
    noise = np.stack([draws.noise(first_clip + i, shape) for i in range(len(stored))])
    scalars = [draws.scalars(first_clip + i) for i in range(len(stored))]
    return Batch(
        first_clip=first_clip,
        latent=torch.stack([clip.latent for clip in stored]),
        tokens=torch.stack([clip.tokens for clip in stored]),
        mask=torch.stack([clip.mask for clip in stored]).bool(),
        pooled=torch.stack([clip.pooled for clip in stored]),
        cluster=torch.tensor([clip.cluster for clip in stored]),
        noise=torch.from_numpy(noise),
        normal=torch.tensor([normal for normal, _ in scalars], dtype=torch.float64),
        uniforms=torch.from_numpy(np.stack([uniforms for _, uniforms in scalars])),
        first=torch.stack(firsts) if firsts else None,
    )


class BatchSource:
    """Streams batches without end, made ahead in a background thread.

    `wait_s` is how long the consumer has waited in all.
    """

    def __init__(
        self,
        make: Callable[[int], Batch],
        batch_clips: int,
        first_clip: int,
        submit: Callable[..., Future[Batch]],
    ):
        self.wait_s = 0.0
        self._make, self._batch_clips, self._next_clip, self._submit = make, batch_clips, first_clip, submit
        self._ahead: deque[Future[Batch]] = deque()
        self._fill()

    def peek(self) -> Batch:
        """Returns the batch that `next` will return."""
        return self._ahead[0].result()

    def next(self) -> Batch:
        """Returns the next batch; errors of the background thread (DataError) are raised here."""
        started = time.monotonic()
        batch = self._ahead.popleft().result()
        self.wait_s += time.monotonic() - started
        self._fill()
        return batch

    def _fill(self) -> None:
        while len(self._ahead) < AHEAD_BATCHES:
            self._ahead.append(self._submit(self._make, self._next_clip))
            self._next_clip += self._batch_clips


@contextmanager
def open_batches(
    clips: ClipSet,
    draws: Draws,
    batch_clips: int,
    first_clip: int,
    place: Callable[[Batch], Batch] | None = None,
    order: ClipOrder | None = None,
) -> Iterator[BatchSource]:
    """Opens a BatchSource from `first_clip` on.

    `place`, which runs in the background thread, may pin a batch or move it to a device. `order` is that of a
    set that changed on the way; without it, the set is the one that the lineage began with.
    """
    order = order or ClipOrder(draws, len(clips))

    def make(first: int) -> Batch:
        batch = make_batch(clips, order, draws, first, batch_clips)
        return place(batch) if place else batch

    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
    try:
        yield BatchSource(make, batch_clips, first_clip, executor.submit)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
