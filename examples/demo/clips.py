"""Gameplay clips of VizDoom scenarios with varied captions, written to mp4 files like any user's footage.

    python -m examples.demo.clips OUT --clips 480

Each clip is a file `<scenario>-<number>.mp4` with a caption beside it in `<scenario>-<number>.txt`. The scenario is in the
file's name for the demo's judge alone: nothing in preparing, training or generating reads it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import tempfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import vizdoom

FRAMES, SIDE_PIXELS, FPS = 8, 64, 16
SKIP_TICS = 2  # game tics (1/35 s) between frames; with twice as many a turn leaves neighbours little in common
CLIPS_AN_EPISODE = 4  # places and fights change often, so that a held-out clip is not a training clip a moment later


@dataclass(frozen=True)
class Scenario:
    """What is played, how, and the words for it."""

    config: str
    actions: tuple[tuple[int, ...], ...]  # per button; one is held for a few frames
    subjects: tuple[str, ...]
    moves: tuple[str, ...]
    places: tuple[str, ...]


SCENARIOS: dict[str, Scenario] = {
    "health_gathering": Scenario(
        "health_gathering.cfg",
        ((0, 0, 1), (1, 0, 1), (0, 1, 1)),  # turn left, turn right, forward
        ("medkits on a toxic floor", "white health packs", "first aid boxes", "a survivor hunting for medicine", "scattered medical kits"),
        ("walking over green acid", "running forward to pick up supplies", "turning while moving ahead", "wandering in search of healing"),
        ("in a square stone hall", "in a wide room with a poisonous floor", "inside an acid chamber", "between grey walls"),
    ),
    "defend_the_center": Scenario(
        "defend_the_center.cfg",
        ((1, 0, 0), (0, 1, 0), (1, 0, 1), (0, 1, 1)),  # turn left, turn right, attack
        ("monsters closing in", "demons from all sides", "a gunman with a pistol", "a ring of attackers", "a lone shooter under siege"),
        ("spinning around on the spot", "turning and firing", "looking left and right", "rotating to face the enemy"),
        ("in a round arena", "in the middle of a circular pit", "at the centre of a bowl", "inside a ring of brown walls"),
    ),
    "my_way_home": Scenario(
        "my_way_home.cfg",
        ((1, 0, 0, 0, 0), (0, 1, 0, 0, 0), (0, 0, 1, 0, 0), (1, 0, 1, 0, 0), (0, 1, 1, 0, 0)),
        ("a maze of rooms", "corridors with many textures", "someone looking for the way out", "a lost explorer", "connected little rooms"),
        ("walking down a passage", "turning a corner", "strolling from room to room", "exploring door after door"),
        ("in a labyrinth", "between brick and metal walls", "through a winding building", "in narrow hallways"),
    ),
}
STYLES = (
    "{subject}, {move} {place}",
    "{place}: {subject}, {move}",
    "first person view, {move}, {subject} {place}",
    "{move} {place}, {subject}",
)
SPEEDS = ("", ", slowly", ", fast", ", without a pause", ", hesitating")


def caption(scenario: Scenario, rng: np.random.Generator) -> str:
    """One of some thousand wordings; none names the scenario."""

    def pick(words: tuple[str, ...]) -> str:
        return words[int(rng.integers(len(words)))]

    text = pick(STYLES).format(subject=pick(scenario.subjects), move=pick(scenario.moves), place=pick(scenario.places)) + pick(SPEEDS)
    return text[0].upper() + text[1:]


def play(scenario: Scenario, rng_seed: int) -> Generator[list[np.ndarray], None, None]:
    """Clips of random play, FRAMES frames uint8 [H, W, 3] each, without end; no clip runs over an episode's end."""
    with tempfile.TemporaryDirectory() as folder:
        game = open_game(scenario, rng_seed, Path(folder))
        rng = np.random.default_rng(rng_seed)
        try:
            while True:
                game.new_episode()
                frames = _frames(game, scenario, rng)
                for _ in range(CLIPS_AN_EPISODE):
                    gap = int(rng.integers(4, 20))  # clips do not follow each other without one
                    clip = list(itertools.islice(frames, gap, gap + FRAMES))
                    if len(clip) == FRAMES:
                        yield clip
        finally:
            game.close()


def open_game(scenario: Scenario, rng_seed: int, folder: Path) -> vizdoom.DoomGame:
    """A game without a window; what it writes goes to `folder`."""
    game = vizdoom.DoomGame()
    game.load_config(str(Path(vizdoom.scenarios_path) / scenario.config))
    game.set_doom_config_path(str(folder / "_vizdoom.ini"))
    game.set_window_visible(False)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
    game.set_render_hud(False)
    game.set_seed(rng_seed)
    game.init()
    return game


def _frames(game: vizdoom.DoomGame, scenario: Scenario, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Frames until the episode ends; an action is held for a while."""
    while not game.is_episode_finished():
        action = list(scenario.actions[int(rng.integers(len(scenario.actions)))])
        for _ in range(int(rng.integers(4, 13))):
            state = game.get_state()
            if state is None or game.is_episode_finished():
                return
            yield cv2.resize(state.screen_buffer[:, 20:140], (SIDE_PIXELS, SIDE_PIXELS), interpolation=cv2.INTER_AREA)
            game.make_action(action, SKIP_TICS)


def write_clips(out: Path, clips: int, rng_seed: int = 0) -> int:
    """Write about `clips` clips, equally many of each scenario; the same seed gives the same clips."""
    out.mkdir(parents=True, exist_ok=True)
    each = clips // len(SCENARIOS)
    for number, (name, scenario) in enumerate(SCENARIOS.items()):
        rng = np.random.default_rng((rng_seed, number))
        with contextlib.closing(play(scenario, rng_seed * 1000 + number)) as played:
            for clip, frames in enumerate(itertools.islice(played, each)):
                path = out / f"{name}-{clip:04d}.mp4"
                write_video(path, frames)
                path.with_suffix(".txt").write_text(caption(scenario, rng) + "\n")
    return each * len(SCENARIOS)


def write_video(path: Path, frames: list[np.ndarray]) -> None:
    with av.open(str(path), "w") as container:
        # A constant quantiser: with crf, six of thirty clips now and then came out as other bytes.
        stream = container.add_stream("libx264", rate=FPS, options={"qp": "16", "preset": "veryfast"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write gameplay clips with captions.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--clips", type=int, default=480)
    parser.add_argument("--rng-seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"{write_clips(arguments.out, arguments.clips, arguments.rng_seed)} clips in {arguments.out}")
