"""Defines what readers of media give, and why a file gives nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paris_p2p.errors import DataError

MAX_ASPECT = 16
Frames = NDArray[np.uint8]  # [T, H, W, 3] of one clip, or [B, T, H, W, 3]


class UnusableVideo(DataError):
    """Says that a file gives no clip; `reason` is one of a few words to count by."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Clip:
    """Holds pixels [T, H, W, 3] and where in the video they start."""

    start_s: float
    frames: Frames
