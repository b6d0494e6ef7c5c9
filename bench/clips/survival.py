"""Films Crafter, a survival game seen from above (Hafner 2021, arXiv 2109.06780), played by simple habits."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import crafter
import numpy as np

from examples.gameplay import FRAMES, SIDE_PIXELS

# worlds of the game's own 64 x 64 take 2.5 times as long to make and show no more of themselves
AREA_TILES = (40, 40)
CLIPS_AN_EPISODE = 8
TILE_PIXELS = 8
# columns and rows; the game fills the lowest two rows with the inventory, which is cut off
VIEW_TILES = (9, 11)
EDGE = (9 * TILE_PIXELS - SIDE_PIXELS) // 2
NOOP, MOVES, USE = 0, (1, 2, 3, 4), 5  # the game's action numbers


def episodes(scene: str, rng_seed: int) -> Generator[list[list[np.ndarray]], None, None]:
    """Yields worlds without end, each a few clips of one player's day; `scene` is the player's habit."""
    rng = np.random.default_rng(rng_seed)
    for number in range(1 << 30):
        size = (VIEW_TILES[0] * TILE_PIXELS, VIEW_TILES[1] * TILE_PIXELS)
        env = crafter.Env(area=AREA_TILES, view=VIEW_TILES, size=size, seed=rng_seed * 10007 + number)
        env.reset()
        yield list(_clips(env, HABITS[scene](rng), rng))


def _clips(env: crafter.Env, actions: Iterator[int], rng: np.random.Generator) -> Iterator[list[np.ndarray]]:
    """Yields up to CLIPS_AN_EPISODE whole clips with gaps; the player's death ends the episode."""
    for _ in range(CLIPS_AN_EPISODE):
        clip: list[np.ndarray] = []
        gap = int(rng.integers(6, 18))
        for step in range(gap + FRAMES):
            picture, _, done, _ = env.step(next(actions))
            if done:
                return
            if step >= gap:
                clip.append(picture[EDGE : EDGE + SIDE_PIXELS, EDGE : EDGE + SIDE_PIXELS])
        yield clip


def _wander(rng: np.random.Generator) -> Iterator[int]:
    """Makes any move, each time anew."""
    while True:
        yield int(rng.choice((NOOP, *MOVES)))


def _stroll(rng: np.random.Generator) -> Iterator[int]:
    """Goes the same way for a while, and stands still now and then."""
    while True:
        action = int(rng.choice((NOOP, *MOVES, *MOVES)))
        for _ in range(int(rng.integers(3, 12))):
            yield action


def _gather(rng: np.random.Generator) -> Iterator[int]:
    """Walks up to things and uses them."""
    while True:
        action = int(rng.choice(MOVES))
        for _ in range(int(rng.integers(1, 6))):
            yield action
        for _ in range(int(rng.integers(1, 5))):
            yield USE


HABITS = {"wander": _wander, "stroll": _stroll, "gather": _gather}
