"""Films VizDoom scenarios with varied captions, as mp4 files like any user's footage.

    python -m examples.demo.clips OUT --clips 480

Each clip is a file `<scenario>-<number>.mp4` with a caption beside it in `<scenario>-<number>.txt`. The
scenario is in the file's name for the demo's judge alone: nothing in preparing, training or generating reads
it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from examples.gameplay import FRAMES, GAMES, Game, episodes, write_video


@dataclass(frozen=True)
class Scenario:
    """Says what is played, and the words for it."""

    game: Game
    subjects: tuple[str, ...]
    moves: tuple[str, ...]
    places: tuple[str, ...]


SCENARIOS: dict[str, Scenario] = {
    "health_gathering": Scenario(
        GAMES["health_gathering"],
        (
            "medkits on a toxic floor",
            "white health packs",
            "first aid boxes",
            "a survivor hunting for medicine",
            "scattered medical kits",
        ),
        (
            "walking over green acid",
            "running forward to pick up supplies",
            "turning while moving ahead",
            "wandering in search of healing",
        ),
        (
            "in a square stone hall",
            "in a wide room with a poisonous floor",
            "inside an acid chamber",
            "between grey walls",
        ),
    ),
    "defend_the_center": Scenario(
        GAMES["defend_the_center"],
        (
            "monsters closing in",
            "demons from all sides",
            "a gunman with a pistol",
            "a ring of attackers",
            "a lone shooter under siege",
        ),
        (
            "spinning around on the spot",
            "turning and firing",
            "looking left and right",
            "rotating to face the enemy",
        ),
        (
            "in a round arena",
            "in the middle of a circular pit",
            "at the centre of a bowl",
            "inside a ring of brown walls",
        ),
    ),
    "my_way_home": Scenario(
        GAMES["my_way_home"],
        (
            "a maze of rooms",
            "corridors with many textures",
            "someone looking for the way out",
            "a lost explorer",
            "connected little rooms",
        ),
        (
            "walking down a passage",
            "turning a corner",
            "strolling from room to room",
            "exploring door after door",
        ),
        (
            "in a labyrinth",
            "between brick and metal walls",
            "through a winding building",
            "in narrow hallways",
        ),
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
    """Returns one of some thousand wordings; none names the scenario."""

    def pick(words: tuple[str, ...]) -> str:
        return words[int(rng.integers(len(words)))]

    text = pick(STYLES).format(
        subject=pick(scenario.subjects), move=pick(scenario.moves), place=pick(scenario.places)
    ) + pick(SPEEDS)
    return text[0].upper() + text[1:]


def write_clips(out: Path, clips: int, rng_seed: int = 0, frames: int = FRAMES) -> int:
    """Writes about `clips` clips of `frames` frames, equally many of each scenario.

    The same seed gives the same clips.
    """
    out.mkdir(parents=True, exist_ok=True)
    each = clips // len(SCENARIOS)
    for number, (name, scenario) in enumerate(SCENARIOS.items()):
        rng = np.random.default_rng((rng_seed, number))
        with contextlib.closing(episodes(scenario.game, rng_seed * 1000 + number, frames)) as played:
            for clip, pictures in enumerate(itertools.islice(itertools.chain.from_iterable(played), each)):
                path = out / f"{name}-{clip:04d}.mp4"
                write_video(path, pictures)
                path.with_suffix(".txt").write_text(caption(scenario, rng) + "\n")
    return each * len(SCENARIOS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write gameplay clips with captions.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--clips", type=int, default=480)
    parser.add_argument("--rng-seed", type=int, default=0)
    parser.add_argument("--frames", type=int, default=FRAMES, help="of each clip, at 16 a second")
    arguments = parser.parse_args()
    print(
        f"{write_clips(arguments.out, arguments.clips, arguments.rng_seed, arguments.frames)} clips in "
        f"{arguments.out}"
    )
