"""How a long video is parted into sources that splits keep apart: its scenes, and stretches of long ones. Pure.

Only what lies between two cuts is continuous: clips on both sides of a part's edge inside a scene are nearly
alike, and `left_out` says which are dropped where the two parts fall into different splits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from paris_p2p.data.splits import TRAIN, Split
from paris_p2p.spec import ClipShape

PART_CLIPS = 16  # of a scene that is longer than so many clips, in one part
LARGE_SHARE = 12  # a video with more than a twelfth of all clips is parted, however short
GAP_S = 1.0  # at least one clip, dropped at an edge between splits


@dataclass(frozen=True)
class Span:
    """A part of a video: `number` among its parts, `scene` among its scenes."""

    number: int
    scene: int
    start_s: float
    end_s: float


def clips_in(duration_s: float, shape: ClipShape) -> int:
    """How many clips that do not overlap a stretch holds."""
    return max(0, int(duration_s * shape.fps / shape.frames + 0.01))


def long_from(total_clips: int, most_whole: int) -> int:
    """A video of more clips than this is parted; of less it stays one source."""
    return min(most_whole, max(1, total_clips // LARGE_SHARE))


def part_clips(total_clips: int) -> int:
    """How many clips a part of a long scene holds."""
    return max(1, min(PART_CLIPS, total_clips // LARGE_SHARE))


def plan_parts(
    duration_s: float, cuts_s: Sequence[float], shape: ClipShape, at_most_clips: int
) -> list[Span]:
    """The parts of a video with such cuts; scenes shorter than a clip give none."""
    clip_s = shape.frames / shape.fps
    edges = [0.0, *(cut_s for cut_s in cuts_s if 0 < cut_s < duration_s), duration_s]
    spans: list[Span] = []
    for scene, (start_s, end_s) in enumerate(pairwise(edges)):
        clips = clips_in(end_s - start_s, shape)
        parts = math.ceil(clips / at_most_clips)
        for i in range(parts):
            first, last = i * clips // parts, (i + 1) * clips // parts
            until_s = end_s if i + 1 == parts else start_s + last * clip_s
            spans.append(Span(len(spans), scene, start_s + first * clip_s, until_s))
    return spans


def left_out(
    parts: Mapping[int, Span],
    splits: Mapping[int, Split],
    starts_s: Mapping[int, Sequence[float]],
    clip_s: float,
) -> set[tuple[int, int]]:
    """(part, index of its clip) of the clips of one video that lie too near to a clip of another split.

    Train gives way to what is held out; of two held-out parts the one with more clips does. No part loses its
    last clip.
    """
    dropped: set[tuple[int, int]] = set()
    gap = max(1, math.ceil(GAP_S / clip_s - 1e-6))
    for number, span in sorted(parts.items()):
        following = parts.get(number + 1)
        if following is None or following.scene != span.scene or splits[number] == splits[number + 1]:
            continue
        if not starts_s[number] or not starts_s[number + 1]:
            continue
        weights = {n: (splits[n] == TRAIN, len(starts_s[n])) for n in (number, number + 1)}
        loser = max(weights, key=lambda n: weights[n])
        count = len(starts_s[loser])
        most = min(gap, max(1, count // 4), count - 1)
        indices = range(count - most, count) if loser == number else range(most)
        dropped |= {(loser, index) for index in indices}
    return dropped
