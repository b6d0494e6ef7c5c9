"""Which clips are evaluated, and how they look.

Legend: B clips, T frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paris_p2p.data.prepared import Prepared, Split, SplitClip, split_clips
from paris_p2p.errors import UsageError
from paris_p2p.evaluation.options import MIN_CLIPS, EvaluateOptions

_MORE_VIDEOS = "raise --clips, take the other --split, or prepare with more source videos"


@dataclass(frozen=True)
class Held:
    """Held-out clips of a prepared folder, and the seed of the order, noise and times they are looked at
    with.
    """

    folder: Path
    prepared: Prepared
    split: Split
    rng_seed: int
    image_to_video: bool = False  # experts and router know the first frame


def choose_held_out(folder: Path, options: EvaluateOptions) -> list[SplitClip]:
    """Returns the clips to evaluate; UsageError when they are too few, or of one video."""
    clips = choose_clips(list(split_clips(folder, options.split)), options.clips, options.rng_seed)
    if len(clips) < MIN_CLIPS:
        raise UsageError(
            f"the {options.split} split of {folder} has {len(clips)} clips: an evaluation needs {MIN_CLIPS}"
        )
    if len({clip.video for clip in clips}) < 2:
        raise UsageError(
            f"the {len(clips)} {options.split} clips are of one source video and say nothing about others: "
            f"{_MORE_VIDEOS}"
        )
    return clips


def choose_clips(clips: list[SplitClip], count: int, rng_seed: int) -> list[SplitClip]:
    """Returns at most `count` clips, chosen by a fixed shuffle, in their old order."""
    return [clips[i] for i in np.sort(np.random.default_rng(rng_seed).permutation(len(clips))[:count])]


def choose_balanced(clips: list[SplitClip], count: int, rng_seed: int) -> list[SplitClip]:
    """Returns at most `count` clips, as many of each cluster where there are as many."""
    clusters = sorted({clip.cluster for clip in clips})
    each = count // max(1, len(clusters))
    return [
        clip for k in clusters for clip in choose_clips([c for c in clips if c.cluster == k], each, rng_seed)
    ]


def pixels_of(clips: Sequence[SplitClip], part: range, prepared: Prepared) -> NDArray[np.uint8]:
    """Returns the frames of some of the clips: [B T H W 3]."""
    return np.stack([clips[i].pixels(prepared.clip) for i in part])
