"""Keeps how much a router's answer may rest on the noisy latent at each time: one share a time, fitted after
training (training/calibrating.py) and sent in the metadata of the weights file.

A router learns over all times at once. Near t = 1 the latent is noise and should change nothing, but the
router has not learnt that exactly, and is disturbed by it. By Bayes' rule

    log p(k | x_t, c) = log p(k | c) + log p(x_t | k, c) - log p(x_t | c)

where the last term is the same for every k, so what the latent adds to the caption's logits l_c is
l_xc - l_c, and the answer with a share s(t) of it is

    l(t) = l_c + s(t) (l_xc - l_c)

At s = 1 it is the router as it was trained, at s = 0 the caption alone. s is never above 1: where clips are
few they can all be told apart, and their likelihood then asks for more and more of it. The other form that
was tried, l_c + s(t) l_x with the router without a caption, has no s that leaves a router as it is. Nor did
one temperature for all times, fitted beside s, lower losses of other clips.

Legend: B clips, K experts. t = 1 is noise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from paris_p2p.errors import CheckpointError

KNOTS = 9  # times 0, 1/8 ... 1; linear between them
NOTE = "calibration"  # the key in a weights file's metadata
_STEPS = 10_000  # a share is a whole number of these parts of one
_SHARE = re.compile(r"0\.[0-9]{4}|1\.0000")


@dataclass(frozen=True)
class Calibration:
    """Holds s at the times 0, 1/8 ... 1, each in [0, 1], rounded to four decimals; ValueError for others."""

    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        shares = tuple(float(share) for share in self.shares)
        if len(shares) != KNOTS or not all(0 <= share <= 1 for share in shares):  # NaN is not
            raise ValueError(f"a calibration has {KNOTS} shares from 0 to 1, not {str(shares)[:160]}")
        object.__setattr__(self, "shares", tuple(round(share * _STEPS) / _STEPS for share in shares))

    @property
    def is_plain(self) -> bool:
        """Says whether it leaves a router as it was trained."""
        return all(share == 1 for share in self.shares)

    def at(self, t: Tensor) -> Tensor:
        """Returns s at times t in [0, 1], in float32: [B] -> [B]."""
        place = t.float().clamp(0, 1) * (KNOTS - 1)  # [B]
        below = place.floor().clamp(max=KNOTS - 2).long()
        shares = torch.tensor(self.shares, device=t.device)
        # exact at both ends, so that a router that is not changed stays so bit for bit
        return torch.lerp(shares[below], shares[below + 1], place - below)

    def mix(self, text: Tensor, both: Tensor, t: Tensor) -> Tensor:
        """Returns l_c + s(t) (l_xc - l_c): logits with the caption alone [B K], with both [B K], t [B] ->
        [B K].
        """
        return torch.lerp(text, both, self.at(t)[:, None])

    def note(self) -> dict[str, str]:
        """Returns what a weights file's metadata say: nine numbers with four decimals, or nothing."""
        return {} if self.is_plain else {NOTE: ",".join(f"{share:.4f}" for share in self.shares)}


def knot_times() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Returns the times at which s is kept, rising: [KNOTS]."""
    return np.linspace(0, 1, KNOTS)


def parse_calibration(text: str, name: str) -> Calibration | None:
    """Returns what metadata say, None where they say nothing; CheckpointError, naming the file `name`, for
    anything but nine shares from 0 to 1 with four decimals.
    """
    if not text:
        return None
    parts = text.split(",", KNOTS)
    if len(parts) != KNOTS or not all(_SHARE.fullmatch(part) for part in parts):
        raise CheckpointError(
            f"{name} has a calibration that cannot be read: {text[:80]!r}, where {KNOTS} numbers from 0.0000 "
            "to 1.0000 should stand; fetch it again, or use another checkpoint"
        )
    return Calibration(tuple(float(part) for part in parts))


def calibration_of(path: Path) -> Calibration | None:
    """Returns the calibration in a weights file's metadata, None where it has none; CheckpointError."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(NOTE, "")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path.name} is not a weights file ({str(error)[:160]})") from error
    return parse_calibration(text, path.name)


def configured(shares: Sequence[float] | None) -> Calibration | None:
    """Returns the calibration of a model's config.json, None where it names none; CheckpointError for what no
    calibration is.
    """
    if shares is None:
        return None
    try:
        if not all(type(share) in (int, float) for share in shares):
            raise ValueError("shares are numbers")
        return Calibration(tuple(shares))
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"config.json has a calibration of {str(shares)[:80]}, where {KNOTS} numbers from 0 to 1 should "
            "stand; do not trust this model"
        ) from error
