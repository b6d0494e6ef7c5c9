"""Plays VizDoom without a window and writes video files, for the demo and the benchmarks.

Legend: H x W pixels.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import vizdoom

FRAMES, SIDE_PIXELS, FPS = 8, 64, 16
# game tics (1/35 s) between frames; with twice as many a turn leaves neighbours little in common
SKIP_TICS = 2
# places and fights change often, so that a held-out clip is not a training clip a moment later
CLIPS_AN_EPISODE = 4


@dataclass(frozen=True)
class Game:
    """Describes a scenario of VizDoom's and what its random player does."""

    config: str
    actions: tuple[tuple[int, ...], ...]  # per button; one is held for a few frames


GAMES: dict[str, Game] = {
    # turn left, turn right, forward
    "health_gathering": Game("health_gathering.cfg", ((0, 0, 1), (1, 0, 1), (0, 1, 1))),
    # turn left, turn right, attack
    "defend_the_center": Game("defend_the_center.cfg", ((1, 0, 0), (0, 1, 0), (1, 0, 1), (0, 1, 1))),
    "my_way_home": Game(  # turn left, turn right, forward, left, right
        "my_way_home.cfg",
        ((1, 0, 0, 0, 0), (0, 1, 0, 0, 0), (0, 0, 1, 0, 0), (1, 0, 1, 0, 0), (0, 1, 1, 0, 0)),
    ),
    "take_cover": Game("take_cover.cfg", ((1, 0), (0, 1), (0, 0))),  # left, right
    "deadly_corridor": Game(  # left, right, attack, forward, backward, turn left, turn right
        "deadly_corridor.cfg",
        tuple(
            tuple(int(button in held) for button in range(7))
            for held in ((3,), (2, 3), (4,), (5,), (6,), (0,))
        ),
    ),
}


def episodes(
    game: Game, rng_seed: int, frames: int = FRAMES
) -> Generator[list[list[np.ndarray]], None, None]:
    """Yields random episodes without end, each a few whole clips of `frames` frames uint8 [H, W, 3]."""
    with tempfile.TemporaryDirectory() as folder:
        played = open_game(game, rng_seed, Path(folder))
        rng = np.random.default_rng(rng_seed)
        try:
            while True:
                played.new_episode()
                yield list(_cut(_frames(played, game, rng), rng, frames))
        finally:
            played.close()


def open_game(game: Game, rng_seed: int, folder: Path) -> vizdoom.DoomGame:
    """Opens a game without a window; what it writes goes to `folder`."""
    opened = vizdoom.DoomGame()
    opened.load_config(str(Path(vizdoom.scenarios_path) / game.config))
    opened.set_doom_config_path(str(folder / "_vizdoom.ini"))
    opened.set_window_visible(False)
    opened.set_screen_format(vizdoom.ScreenFormat.RGB24)
    opened.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
    opened.set_render_hud(False)
    opened.set_seed(rng_seed)
    opened.init()
    return opened


def _cut(played: Iterator[np.ndarray], rng: np.random.Generator, frames: int) -> Iterator[list[np.ndarray]]:
    """Yields up to CLIPS_AN_EPISODE whole clips, with a gap between them."""
    for _ in range(CLIPS_AN_EPISODE):
        gap = int(rng.integers(4, 20))
        clip = list(itertools.islice(played, gap, gap + frames))
        if len(clip) == frames:
            yield clip


def _frames(played: vizdoom.DoomGame, game: Game, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yields frames until the episode ends; an action is held for a while."""
    while not played.is_episode_finished():
        action = list(game.actions[int(rng.integers(len(game.actions)))])
        for _ in range(int(rng.integers(4, 13))):
            state = played.get_state()
            if state is None or played.is_episode_finished():
                return
            yield cv2.resize(
                state.screen_buffer[:, 20:140], (SIDE_PIXELS, SIDE_PIXELS), interpolation=cv2.INTER_AREA
            )
            played.make_action(action, SKIP_TICS)


def write_video(
    path: Path, frames: Sequence[np.ndarray], quantiser: int = 16, pixel_format: str = "yuv420p"
) -> None:
    """Writes an H.264 file of frames uint8 [H, W, 3]; the same frames give the same bytes."""
    with av.open(str(path), "w") as container:
        # A constant quantiser: with crf, six of thirty clips now and then came out as other bytes.
        stream = container.add_stream(
            "libx264", rate=FPS, options={"qp": str(quantiser), "preset": "veryfast"}
        )
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"))
            )
        container.mux(stream.encode())
