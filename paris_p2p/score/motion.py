"""Measures how much moves in a clip, in pixels per frame, with dense inverse search optical flow.

Source: Kroeger et al. 2016 (arXiv 1603.03590). Legend: B clips, T frames, N clips of a side.
"""

from __future__ import annotations

from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paris_p2p.errors import UsageError
from paris_p2p.score.intervals import Clips, Floats, Plan
from paris_p2p.score.values import Values, score_values

MIN_SIDE_PIXELS = 32  # the flow's coarsest picture must still hold a patch

Motion = Values  # in pixels per frame


def motion_px_per_frame(video: NDArray[np.uint8]) -> Floats:
    """Returns the mean length of the flow between neighbouring frames: uint8 [B T H W 3] -> [B].

    Cuts count as motion; flat areas do not move.
    """
    if video.ndim != 5 or video.shape[4] != 3 or video.dtype != np.uint8:
        raise UsageError(
            f"clips of shape {video.shape} and type {video.dtype}: "
            "optical flow needs uint8 [clips, frames, rows, columns, 3]"
        )
    if video.shape[1] < 2 or min(video.shape[2:4]) < MIN_SIDE_PIXELS:
        raise UsageError(
            f"clips of {video.shape[1:4]}: optical flow needs 2 frames, and {MIN_SIDE_PIXELS} pixels a side"
        )
    cv2 = _opencv()
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow.setFinestScale(0)  # down to single pixels: clips are small
    return np.array([_clip_motion(cv2, flow, clip) for clip in video])


def score_motion(real: Clips, generated: Clips, plan: Plan | None = None) -> Motion:
    """Scores `motion_px_per_frame` of each clip, given as [N 1] features."""
    return score_values("Motion, DIS optical flow, px/frame", real, generated, plan)


def _clip_motion(cv2: ModuleType, flow: Any, clip: NDArray[np.uint8]) -> float:
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]  # H W
    steps = [flow.calc(before, after, None) for before, after in pairwise(grey)]  # H W 2
    return float(np.mean([np.linalg.norm(step, axis=-1).mean() for step in steps]))


def _opencv() -> ModuleType:
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise UsageError(
            "motion needs the package opencv-python-headless; "
            "in a clone of paris-p2p, run `pip install -e '.[evaluate]'`"
        ) from error
    return cv2
