"""Fits a router's calibration (model/calibration.py) on clips that nobody trains on and no gate measures.

    for each of nine times t
        l_c, l_xc = the averaged router's logits with the caption alone, and with the latent at t
        s = argmin over [0, 1] of the clips' mean cross-entropy with l_c + s (l_xc - l_c)
        kept only where s fitted on either half of the clips does better than s = 1 on the other half

The cross-entropy of logits that are linear in s is convex in s, so its derivative rises, and bisection finds
the one minimum. Nothing is drawn but the clips' noise, by the run alone: the same weights give the same
calibration, also after a stop.
Legend: B clips, N all of them, K experts. t = 1 is noise.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paris_p2p.data.batches import Batch, ClipOrder, Draws, make_batch
from paris_p2p.data.clips import ClipSet
from paris_p2p.device import Device, return_memory
from paris_p2p.flow.path import interpolate
from paris_p2p.model.calibration import KNOTS, Calibration, knot_times
from paris_p2p.model.layers import uninitialised
from paris_p2p.model.posterior import start_logits
from paris_p2p.model.presets import build_plain_router
from paris_p2p.spec import RunSpec
from paris_p2p.training.learner import Learner
from paris_p2p.training.messages import TrainJob
from paris_p2p.training.objective import FIRST_FEATURE_DRAW, open_calibration_clips
from paris_p2p.training.probing import PART_CLIPS

log = logging.getLogger(__name__)
MOST_CLIPS, LEAST_CLIPS = 256, 16  # nine passes forward each: a dozen training steps of 64 clips
_HALVINGS = 16  # of [0, 1]: finer than a share is written

Logits = NDArray[np.float64]  # [... N K]
ClusterLabels = NDArray[np.int64]  # [N], columns of the logits


@dataclass(frozen=True)
class RouterCalibrator:
    """Says what a router's weights file says beside its counters, from its averaged weights."""

    run: str
    spec: RunSpec
    clips: ClipSet
    device: Device

    def note(self, average: Mapping[str, Tensor]) -> dict[str, str]:
        """Returns the metadata of the calibration; nothing where none is better than none, clips are too few
        or memory is.
        """
        try:
            measured = self._measure(average)
        except torch.OutOfMemoryError:
            return_memory(self.device)
            log.warning("the router is not calibrated: its average does not fit on %s too", self.device)
            return {}
        return {} if measured is None else fit_calibration(*measured).note()

    def _measure(self, average: Mapping[str, Tensor]) -> tuple[Logits, Logits, ClusterLabels] | None:
        """Returns logits with the caption alone [N K'] and with both [KNOTS N K'], and labels [N] among the
        K' clusters that have the clips they were signed with; None where these are too few.
        """
        sure = kept_clusters(self.spec)
        router = self._router(average)
        texts, boths, labels = [], [], []
        for batch in self._batches():
            rows = torch.isin(batch.cluster, torch.tensor(sure))
            if not bool(rows.any()):
                continue
            text, both = self._ask(router, batch.where(rows))
            texts.append(text[:, sure])
            boths.append(both[:, :, sure])
            labels.append(np.searchsorted(sure, batch.cluster[rows].numpy()))
        if len(sure) < 2 or sum(map(len, labels)) < LEAST_CLIPS:
            return None
        return np.concatenate(texts), np.concatenate(boths, 1), np.concatenate(labels)

    def _batches(self) -> Iterator[Batch]:
        draws = Draws.of(self.run, "calibration")
        count = min(MOST_CLIPS, len(self.clips))
        for start in range(0, count, PART_CLIPS):
            part = min(PART_CLIPS, count - start)
            yield make_batch(self.clips, ClipOrder(draws, len(self.clips)), draws, start, part)

    def _router(self, average: Mapping[str, Tensor]) -> Any:
        """Returns the router as its weights file has it, in float32 as generation has it."""
        with uninitialised(torch.device("meta")):
            router = build_plain_router(self.spec.router.config)
        published = {
            name: tensor.detach().to(self.device.torch, torch.bfloat16).float()
            for name, tensor in average.items()
        }
        router.load_state_dict(published, assign=True)
        return router.requires_grad_(False).eval()

    def _ask(self, router: Any, batch: Batch) -> tuple[Logits, Logits]:
        """Returns logits with the caption alone [B K] and with both [KNOTS B K].

        First frames are shown to as many clips as in training.
        """
        shown = batch.uniforms[:, FIRST_FEATURE_DRAW] < self.spec.training.first_frame_rate
        text = np.empty((len(batch), self.spec.experts))
        both = np.empty((KNOTS, len(batch), self.spec.experts))
        for rows, with_first in ((shown, True), (~shown, False)):
            if not bool(rows.any()):
                continue
            part = batch.where(rows).to(self.device.torch)
            first = part.first.float() if with_first and part.first is not None else None
            pooled, x0 = part.pooled.float(), part.latent.float()
            with torch.no_grad():
                text[rows.numpy()] = start_logits(router, pooled, first).double().cpu().numpy()
                for knot, time in enumerate(knot_times()):
                    t = torch.full((len(part),), float(time), device=self.device.torch)
                    answered = router(interpolate(x0, part.noise, t), t, pooled, first)
                    both[knot, rows.numpy()] = answered.double().cpu().numpy()
        return text, both


def calibrate_with(learner: Learner, job: TrainJob) -> RouterCalibrator | None:
    """Makes a router's learner calibrate what it writes, where the job names clips for it; returns what does.

    DataError when they are not the run's.
    """
    clips = open_calibration_clips(job, learner.spec)
    if clips is None:
        return None
    calibrator = RouterCalibrator(job.run, learner.spec, clips, learner.device)
    learner.average_note = calibrator.note
    return calibrator


def kept_clusters(spec: RunSpec) -> list[int]:
    """Returns the clusters whose clips are still labelled as the owner signed them: those that were neither
    split nor dropped since.

    p(k | x, k is one of them) is the posterior over their logits alone, so a fit on their clips is right.
    """
    changed = {*spec.parents, *spec.dropped_experts}
    return [k for k in range(spec.experts - len(spec.parents)) if k not in changed]


def fit_calibration(text: Logits, both: Logits, labels: ClusterLabels) -> Calibration:
    """Returns the shares that lower the clips' cross-entropy, 1 where none does: text [N K], both [KNOTS N
    K], labels [N].

    On these clips it is never higher than without; on others the two halves speak for each other.
    """
    return Calibration(tuple(_kept_share(text, at_knot - text, labels) for at_knot in both))


def cross_entropies(logits: Logits, labels: ClusterLabels) -> NDArray[np.float64]:
    """Returns each clip's -log p(label): [N K], [N] -> [N]."""
    own = np.take_along_axis(logits, labels[:, None], 1)[:, 0]
    top = logits.max(1)
    total: NDArray[np.float64] = top + np.log(np.exp(logits - top[:, None]).sum(1)) - own
    return total


def fit_share(text: Logits, added: Logits, labels: ClusterLabels) -> float:
    """Returns the s in [0, 1] with the least mean cross-entropy of text + s added: [N K], [N K], [N]."""
    own = np.take_along_axis(added, labels[:, None], 1)[:, 0]  # [N]

    def slope(share: float) -> float:
        logits = text + share * added
        shares = np.exp(logits - logits.max(1, keepdims=True))
        expected = (shares * added).sum(1) / shares.sum(1)
        return float((expected - own).mean())

    if slope(1.0) <= 0:
        return 1.0
    if slope(0.0) >= 0:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return (low + high) / 2


def _kept_share(text: Logits, added: Logits, labels: ClusterLabels) -> float:
    """Returns the share fitted on all clips where either half's does better on the other half, else 1."""
    if len(labels) < 2 or not (np.isfinite(text).all() and np.isfinite(added).all()):
        return 1.0
    halves = np.arange(len(labels)) % 2 == 0
    gain = 0.0
    for fitted, checked in ((halves, ~halves), (~halves, halves)):
        share = fit_share(text[fitted], added[fitted], labels[fitted])
        there = text[checked], added[checked], labels[checked]
        gain += float((_losses(1.0, *there) - _losses(share, *there)).sum())
    if not gain > 0:
        return 1.0
    share = Calibration((fit_share(text, added, labels),) * KNOTS).shares[0]  # as it is written
    return (
        share if _losses(share, text, added, labels).sum() < _losses(1.0, text, added, labels).sum() else 1.0
    )


def _losses(share: float, text: Logits, added: Logits, labels: ClusterLabels) -> NDArray[np.float64]:
    return cross_entropies(text + share * added, labels)
