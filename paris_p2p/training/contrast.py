"""Keeps an expert's answers apart by caption: contrastive flow matching (arXiv 2506.05350).

    loss = |v(x_t, t, text) - (eps - x0)|^2 - lambda |v(x_t, t, text) - (eps' - x0')|^2

with eps', x0' of another clip of the batch, which has another caption. A clip whose caption is dropped has no
second term, so that the answer without text stays what guidance takes it for; there, unlike here, it has one.
Experts that predict noise have none: the noises of two clips say nothing of their captions.
Legend: B clips of a batch or of a part of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paris_p2p.data.batches import Batch
from paris_p2p.flow.path import clip_losses, velocity
from paris_p2p.spec import ROUTER, RunSpec
from paris_p2p.training.objective import CAPTION_DRAW, expert_answers


@dataclass(frozen=True)
class Contrast:
    """Holds what each clip's answer is kept away from, and where that is another caption's."""

    targets: Tensor  # [B C T H W] float32
    counts: Tensor  # [B] bool

    def part(self, start: int, stop: int) -> Contrast:
        return Contrast(self.targets[start:stop], self.counts[start:stop])


def contrast_of(spec: RunSpec, slot: str, batch: Batch) -> Contrast | None:
    """Returns each clip's other target, the next clip's with another caption; None where the slot has none.

    It is of the whole batch, so that micro-batches change nothing.
    """
    if not spec.training.contrastive or slot == ROUTER or spec.predicts_noise(slot):
        return None
    clips = torch.arange(len(batch), device=batch.pooled.device)
    other, found = clips.clone(), torch.zeros_like(clips, dtype=torch.bool)
    for ahead in range(1, len(batch)):
        differs = (batch.pooled != batch.pooled.roll(-ahead, 0)).any(1) & ~found
        other = torch.where(differs, clips.roll(-ahead), other)
        found |= differs
        if bool(found.all()):
            break
    has_caption = batch.uniforms[:, CAPTION_DRAW] >= spec.training.caption_dropout
    targets = velocity(batch.latent.float(), batch.noise)[other]
    return Contrast(targets, found & has_caption)


def contrasted_losses(
    spec: RunSpec, slot: str, network: nn.Module, batch: Batch, contrast: Contrast
) -> tuple[Tensor, Tensor]:
    """Returns what is minimised, which may be negative, and the plain loss, which is told: [B], [B]."""
    answers, targets = expert_answers(spec, slot, network, batch)
    plain = clip_losses(answers, targets)
    away = torch.where(contrast.counts, clip_losses(answers, contrast.targets), 0.0)
    return plain - spec.training.contrastive * away, plain.detach()
