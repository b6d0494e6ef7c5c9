"""Films the clips of the stage `clips`: VizDoom, Crafter, and stamps that move over drawn grounds.

Every episode's light is drawn as bench/clips draws it, and captions say what bench/clips measures in the
pixels, in few wordings.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench.clips import attributes, light
from bench.clips.captions import write_plainly
from bench.clips.make import Part, begin_worker, filmed_of, plan, split
from bench.sets.game_frames import GAME_WORLDS, check_games
from bench.sets.moving_stamps import CLIPS_AN_EPISODE, SCENES, filmed
from bench.sets.parts import Kept, Known
from bench.sets.stamps import dealt_stamps, load_stamps

MOVING = "stamps"
PART_CLIPS = 120
WORDING, LIT, LOOK = 1, 2, 3  # what a draw is for
PER_MILLE = {"test": 140, "validation": 60}  # of the sources; the rest is trained on
SAID = ("brightness", "contrast", "colour", "lighter", "motion")  # what a caption may mention
Film = Callable[[], str]


def split_of(source: str) -> str:
    """Returns the split of a source by its name: an episode or a ground is in one split alone."""
    place = zlib.crc32(source.encode()) % 1000
    for name, share in PER_MILLE.items():
        if place < share:
            return name
        place -= share
    return "train"


def film_clips(
    folder: Path, clips: int, stamps: Path, rng_seed: int, jobs: int, say: Callable[[str], None]
) -> list[Kept]:
    """Films so many clips, a third of each world; parts that are there stay."""
    check_games(GAME_WORLDS)
    load_stamps(stamps)  # what is missing is told before any process starts
    shares = split(clips, len(GAME_WORLDS) + 1)
    games = plan(folder, sum(shares[:-1]), rng_seed, GAME_WORLDS, PART_CLIPS)
    works: list[tuple[Kept, Film]] = [
        (Kept(folder, part.name), partial(_film_game, folder, part)) for part in games
    ]
    for k, scene in enumerate(SCENES):
        wanted = split(shares[-1], len(SCENES))[k]
        for number in range(-(-wanted // PART_CLIPS)):
            count = min(PART_CLIPS, wanted - number * PART_CLIPS)
            kept = Kept(folder, f"{MOVING}-{scene}-{number:03d}-{count}")
            works.append(
                (kept, partial(_film_stamps, kept, stamps, (rng_seed, len(GAME_WORLDS), k, number), count))
            )
    missing = [film for kept, film in works if not kept.is_done]
    with (
        TemporaryDirectory(prefix="films-") as scratch,
        ProcessPoolExecutor(jobs, get_context("spawn"), begin_worker, (Path(scratch),)) as pool,
    ):
        for done, future in enumerate(as_completed([pool.submit(film) for film in missing]), 1):
            say(f"{future.result()}: {done} of {len(missing)} parts")
    return [kept for kept, _ in works]


def _film_game(folder: Path, part: Part) -> str:
    kept = Kept(folder, part.name)
    named = f"{part.domain}-{part.scene}-{part.number:03d}"
    _keep(kept, part.domain, part.entropy, ((f"{named}-{i}", lit) for i, lit in filmed_of(part)))
    return kept.name


def _film_stamps(kept: Kept, stamps: Path, entropy: tuple[int, ...], count: int) -> str:
    """Films one part of the stamps' world: each source is a ground with its light and a few clips."""
    dealt = dealt_stamps(load_stamps(stamps))

    def films() -> Iterator[tuple[str, np.ndarray]]:
        for number in range(-(-count // CLIPS_AN_EPISODE)):
            source = f"{kept.name}-{number}"
            lamp = light.draw(np.random.default_rng((*entropy, LIT, number)))
            for clip in filmed(SCENES[entropy[2]], dealt[split_of(source)], (*entropy, LOOK, number)):
                yield source, lamp.on(clip)

    _keep(kept, MOVING, entropy, (film for film, _ in zip(films(), range(count), strict=False)))
    return kept.name


def _keep(kept: Kept, world: str, entropy: tuple[int, ...], films: Iterator[tuple[str, np.ndarray]]) -> None:
    """Measures and captions (source, frames) one by one, and writes them as a part.

    Each source's colours come in an order of its own, or grass would be green in every clip of one world.
    """
    pixels: list[np.ndarray] = []
    known: list[Known] = []
    for source, filmed_frames in films:
        order = np.random.default_rng(zlib.crc32(source.encode())).permutation(3)
        frames = np.ascontiguousarray(filmed_frames[..., order])
        seen = {name: value for name, value in attributes.measure(frames).items() if name in SAID}
        caption, said = write_plainly(seen, np.random.default_rng((*entropy, WORDING, len(known))))
        pixels.append(frames)
        known.append(Known(caption, source, split_of(source), world, seen, said))
    kept.write(np.stack(pixels), known)
