"""Lines over time, of what a node says at a moment: thinned as they grow, so that days fit a page."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict

from paris_p2p.node.node_figures import NodeFigures
from paris_p2p.node.status import Status

MAX_POINTS = 720


class Point(BaseModel):
    """Holds what is drawn of one moment; None where there is nothing to draw."""

    model_config = ConfigDict(frozen=True)

    at: float  # Unix time
    loss: float | None = None  # of training here
    clips_per_s: float | None = None  # of training here
    upload_bytes_per_s: float = 0.0
    download_bytes_per_s: float = 0.0
    memory_bytes: int = 0


def point_of(figures: NodeFigures, at_s: float) -> Point:
    """Returns the point of what a node said at a Unix time."""
    training = figures.training if isinstance(figures, Status) else None
    loss = training.loss if training else None
    return Point(
        at=at_s,
        loss=loss if loss is not None and math.isfinite(loss) else None,
        clips_per_s=training.clips_per_s if training else None,
        upload_bytes_per_s=figures.upload_bytes_per_s,
        download_bytes_per_s=figures.download_bytes_per_s,
        memory_bytes=figures.memory_bytes,
    )


def with_point(points: tuple[Point, ...], new: Point, limit: int = MAX_POINTS) -> tuple[Point, ...]:
    """Returns the points and a new one, at most `limit`.

    When there are too many, every second one of the older half goes: what is near stays fine. A point that is
    not later than the last (a clock that was set back) begins anew after those before it.
    """
    kept = tuple(point for point in points if point.at < new.at)
    kept = (*kept, new)
    if len(kept) <= limit:
        return kept
    half = len(kept) // 2
    return kept[:half:2] + kept[half:]
