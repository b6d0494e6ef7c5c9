"""Parts a long video into sources that splits keep apart: its scenes, and stretches of long scenes.

Only what lies between two cuts is continuous: clips on both sides of a part's edge inside a scene are nearly
alike, and `left_out` says which are dropped where the two parts fall into different splits. All functions are
pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from paris_p2p.data.splits import TRAIN, Split, SplitOptions, can_split
from paris_p2p.spec import ClipShape

PART_CLIPS = 16  # a scene of more clips is parted into pieces of at most so many
LARGE_SHARE = 12  # where videos are too few, one with more than a twelfth of all clips is parted
GAP_S = 1.0  # at least one clip, dropped at an edge between splits


@dataclass(frozen=True)
class Span:
    """Holds a part of a video: `number` among its parts, `scene` among its scenes.

    With `scene_whole` splits keep the parts of its scene together.
    """

    number: int
    scene: int
    start_s: float
    end_s: float
    scene_whole: bool = False

    @property
    def group(self) -> str:
        """Names what of its video splits keep together with it."""
        return f"scene {self.scene}" if self.scene_whole else str(self.number)


def clips_in(duration_s: float, shape: ClipShape) -> int:
    """Returns how many clips a stretch holds without overlap."""
    return max(0, int(duration_s * shape.fps / shape.frames + 0.01))


def long_from(
    videos: Sequence[int], named: Sequence[int], most_whole: int, experts: int, options: SplitOptions
) -> int:
    """Returns the clip count above which a video is parted; with no more it stays one source.

    `videos` are the clips of each video that is its own source, `named` those of each source that the owner
    named. Below `most_whole` only as many videos are parted as the splits need, the longest first.
    """
    total = sum(videos) + sum(named)
    least = min(most_whole, max(1, total // LARGE_SHARE))
    at_most = part_clips(total)
    for limit in sorted({most_whole, *(n for n in videos if least < n < most_whole)}, reverse=True):
        pieces = [piece for clips in videos for piece in _pieces(clips, limit, at_most)]
        if can_split([*pieces, *named], experts, options):
            return limit
    return least


def _pieces(clips: int, limit: int, at_most: int) -> list[int]:
    if clips <= limit:
        return [clips]
    parts = math.ceil(clips / at_most)
    return [(i + 1) * clips // parts - i * clips // parts for i in range(parts)]


def part_clips(total_clips: int) -> int:
    """Returns how many clips a part of a long scene holds."""
    return max(1, min(PART_CLIPS, total_clips // LARGE_SHARE))


def plan_parts(
    duration_s: float, cuts_s: Sequence[float], shape: ClipShape, at_most_clips: int
) -> list[Span]:
    """Returns the parts of a video with such cuts; scenes shorter than a clip give none."""
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
    """Returns (part, index of its clip) of one video's clips that lie too near to a clip of another split.

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
