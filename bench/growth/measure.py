"""Measures what a run's mixture loses on held-out clips: experts weighted by the router, as clips are made.

Legend: B clips, K experts, T passes over the clips, each with another noise and time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from paris_p2p.data.batches import Batch, Draws, assemble
from paris_p2p.data.clips import ClipSet
from paris_p2p.flow.path import clip_losses, interpolate, velocity
from paris_p2p.model.checkpoint import load_weights_into
from paris_p2p.spec import ROUTER, RunSpec, cluster_of
from paris_p2p.training.objective import build_network, times

CLIPS_AT_ONCE, PASSES = 16, 8
NOBODY = "0" * 64  # the run id that seeds the networks, whose weights are loaded over


@dataclass(frozen=True)
class Measured:
    """Holds the mean squared error of a mixture's velocity, and how often which expert had most weight."""

    loss: float
    chosen: Mapping[int, float]  # expert -> share of the clips, noise and times

    @property
    def expert(self) -> int:
        """Returns the expert that is chosen most."""
        return max(self.chosen, key=lambda k: self.chosen[k])


def mixture_loss(
    spec: RunSpec, weights: Mapping[str, Path], clips: ClipSet, dropped: tuple[int, ...] = ()
) -> Measured:
    """Measures a mixture on some clips.

    The experts are the router's, without those in `dropped`. Noise and times are the same for all weights.
    """
    networks = {slot: _loaded(spec, slot, path) for slot, path in weights.items()}
    losses: list[Tensor] = []
    chosen: Counter[int] = Counter()
    for number in range(PASSES):
        draws = Draws.of(NOBODY, f"growth/{number}")
        for first in range(0, len(clips), CLIPS_AT_ONCE):
            indexes = list(range(first, min(len(clips), first + CLIPS_AT_ONCE)))
            batch = assemble(clips, indexes, draws, first)
            slices = (torch.arange(len(batch)) * 0.618034 + number / PASSES) % 1  # spread evenly
            t = times(spec, "expert-0", torch.special.ndtri(slices.double().clamp(1e-3, 1 - 1e-3)))
            with torch.no_grad():
                loss, most = _mixed(networks, batch, t, dropped)
            losses.append(loss)
            chosen.update(most.tolist())
    shares = {k: round(count / chosen.total(), 3) for k, count in sorted(chosen.items())}
    return Measured(float(torch.cat(losses).double().mean()), shares)


def _loaded(spec: RunSpec, slot: str, path: Path) -> torch.nn.Module:
    network = build_network(NOBODY, spec, slot).eval()
    load_weights_into(path, dict(network.named_parameters()))
    return network


def _mixed(
    networks: Mapping[str, torch.nn.Module], batch: Batch, t: Tensor, dropped: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Returns the losses [B] of the routed mixture, and the expert with most weight [B]."""
    x0 = batch.latent.float()
    x_t = interpolate(x0, batch.noise, t)
    logits = networks[ROUTER](x_t, t, batch.pooled.float()).float()  # [B K]
    logits[:, list(dropped)] = -torch.inf
    shares = logits.softmax(1)  # [B K]
    answer = torch.zeros_like(x_t)
    for slot, network in networks.items():
        if slot != ROUTER and cluster_of(slot) not in dropped:
            mine = shares[:, cluster_of(slot)].view(-1, 1, 1, 1, 1)
            answer += mine * network(x_t, t, batch.tokens.float(), batch.mask, batch.pooled.float(), None)
    return clip_losses(answer, velocity(x0, batch.noise)), shares.argmax(1)
