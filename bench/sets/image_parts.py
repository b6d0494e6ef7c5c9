"""Draws the pictures of the stage `images`, one kind of ground after another."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from bench.clips.make import split
from bench.sets.composites import KINDS, composites
from bench.sets.game_frames import GAME_WORLDS, check_games
from bench.sets.parts import Kept, Known
from bench.sets.stamps import dealt_stamps, load_stamps

PART = "pictures"


def draw_pictures(
    folder: Path, wanted: dict[str, int], stamps: Path, rng_seed: int, jobs: int, say: Callable[[str], None]
) -> list[Kept]:
    """Draws so many pictures of each split, kinds in equal shares; kinds that are there stay."""
    check_games(GAME_WORLDS)
    load_stamps(stamps)  # what is missing is told before any process starts
    shares = {name: split(count, len(KINDS)) for name, count in wanted.items()}
    parts = {
        Kept(folder, f"{PART}-{kind}-{name}"): partial(draw_kind, stamps, rng_seed, kind, name, share[k])
        for k, kind in enumerate(KINDS)
        for name, share in shares.items()
        if share[k]
    }
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        futures = [pool.submit(draw, part) for part, draw in parts.items() if not part.is_done]
        for future in as_completed(futures):
            say(future.result())
    return list(parts)


def draw_kind(stamps: Path, rng_seed: int, kind: str, name: str, count: int, part: Kept) -> str:
    """Draws the pictures of one kind and split `name`, writes them, and returns the part's name."""
    pictures = composites(kind, name, dealt_stamps(load_stamps(stamps))[name], rng_seed)
    with closing(pictures):
        drawn = list(islice(pictures, count))
    known = [Known(p.caption, f"{kind}-{name}-{p.source}", name, kind, p.seen, p.said) for p in drawn]
    part.write(np.stack([p.picture for p in drawn])[:, None], known)
    return part.name
