"""Draws the pictures of the stage `images`, one kind of ground after another."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from bench.clips.make import split
from bench.sets.composites import KINDS, composites
from bench.sets.game_frames import check_games
from bench.sets.parts import Kept, Known
from bench.sets.stamps import dealt_stamps, load_stamps

PART = "pictures"


def draw_pictures(
    folder: Path, wanted: dict[str, int], stamps: Path, rng_seed: int, jobs: int, say: Callable[[str], None]
) -> list[Kept]:
    """Draws so many pictures of each split, kinds in equal shares; kinds that are there stay."""
    check_games()
    load_stamps(stamps)  # what is missing is told before any process starts
    shares = {name: split(count, len(KINDS)) for name, count in wanted.items()}
    parts = [Kept(folder, f"{PART}-{kind}") for kind in KINDS]
    missing = [k for k, part in enumerate(parts) if not part.is_done]
    draw = partial(draw_kind, folder, stamps, rng_seed)
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        futures = [pool.submit(draw, k, {name: share[k] for name, share in shares.items()}) for k in missing]
        for future in as_completed(futures):
            say(future.result())
    return parts


def draw_kind(folder: Path, stamps: Path, rng_seed: int, kind: int, wanted: dict[str, int]) -> str:
    """Draws one kind's pictures and returns its name."""
    name = KINDS[kind]
    drawn = list(composites(name, wanted, dealt_stamps(load_stamps(stamps)), rng_seed))
    known = [Known(p.caption, f"{name}-{p.source}", p.split, name, p.seen, p.said) for p in drawn]
    Kept(folder, f"{PART}-{name}").write(np.stack([p.picture for p in drawn])[:, None], known)
    return name
