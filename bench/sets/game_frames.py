"""Takes single pictures out of the games that bench/clips plays: backgrounds that are no drawing.

Legend: S pixels a side.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager

import cv2
import numpy as np
from numpy.typing import NDArray

from bench.clips.errors import WorldError
from bench.clips.worlds import WORLDS, missing_packages

Frame = NDArray[np.uint8]  # [64 64 3]
# name of a kind of ground -> world and scene
GAMES: dict[str, tuple[str, str]] = {
    "nave": ("vizdoom", "health_gathering"),
    "maze": ("vizdoom", "my_way_home"),
    "shelter": ("vizdoom", "take_cover"),
    "island": ("crafter", "gather"),
}
GAME_WORLDS = ("vizdoom", "crafter")
FRAMES_A_CLIP = 3
CROP_PIXELS = 44  # of 64: which part of a frame is seen is drawn for each picture


def check_games(worlds: Iterable[str]) -> None:
    """Raises WorldError when a package of a game is missing; sets have a share of each."""
    if missing := [package for world in worlds for package in missing_packages(world)]:
        raise WorldError(
            f"sets are made with {' and '.join(missing)}, which is not installed: pip install -e '.[bench]'"
        )


def episodes_of(kind: str, rng_seed: int) -> Generator[list[Frame], None, None]:
    """Yields the frames of one episode after another, without end; none may be empty."""
    world, scene = GAMES[kind]
    with _own_folder(), closing(WORLDS[world].player(scene, rng_seed)) as played:
        for episode in played:
            frames = [clip[int(i)] for clip in episode for i in np.linspace(0, len(clip) - 1, FRAMES_A_CLIP)]
            if frames:
                yield frames


def part_of(frame: Frame, side_pixels: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Returns a random part of a frame as a ground, [S S 3] in 0 to 1, its colours in random order.

    Otherwise grass is green in every picture, and a caption that says so names the game.
    """
    top, left = rng.integers(0, frame.shape[0] - CROP_PIXELS + 1, 2)
    part = frame[top : top + CROP_PIXELS, left : left + CROP_PIXELS, rng.permutation(3)]
    scaled = cv2.resize(part, (side_pixels, side_pixels), interpolation=cv2.INTER_AREA)
    ground: NDArray[np.float32] = scaled.astype(np.float32) / 255
    return ground


@contextmanager
def _own_folder() -> Iterator[None]:
    """Works in a folder of its own: VizDoom writes where it runs, and fails where another does."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="game-") as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)
