"""Composes pictures: a ground under a drawn light, and on it one to three stamps at one place.

Every source (a generated ground's look, or a game's episode) gives several pictures, each with a light,
stamps, place, size and caption of its own. Legend: S pixels a side.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bench.clips import light
from bench.clips.attributes import look
from bench.sets.game_frames import GAMES, episodes_of, part_of
from bench.sets.grounds import GROUNDS, Ground, draw_ground
from bench.sets.picture_words import Seen, write_caption
from bench.sets.stamps import Stamp, paste

SIDE_PIXELS = 32
KINDS = (*GAMES, *GROUNDS)
PICTURES_A_LOOK, PICTURES_A_FRAME = 4, 3
SIZES = {"small": (0.26, 0.36), "large": (0.42, 0.56)}  # of the longer side, as a share of the picture's
COUNTS = ("one", "two", "three")
PLACES = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1), "middle": (0, 0)}
OFF = 0.25  # how far from the middle a place is, as a share of the side
SPLIT_NAMES = ("train", "validation", "test")
LOOK, PICTURE = 0, 1  # what a draw is for
Rng = np.random.Generator
Drawer = Callable[[Rng], Ground]


@dataclass(frozen=True)
class Composite:
    """Holds one picture, uint8 [S S 3], and all that is known of it."""

    picture: NDArray[np.uint8]
    caption: str
    seen: Seen
    said: tuple[str, ...]
    source: int  # number among its kind's and split's


def composites(kind: str, split: str, stamps: list[Stamp], rng_seed: int) -> Generator[Composite, None, None]:
    """Yields pictures of one kind and split without end, source after source.

    Splits share no source: each draws its own looks, and plays its own episodes.
    """
    entropy = (rng_seed, KINDS.index(kind), SPLIT_NAMES.index(split))
    number = 0
    with closing(_grounds(kind, entropy)) as sources:
        for source, drawers in enumerate(sources):
            for draw in drawers:
                rng = np.random.default_rng((*entropy, PICTURE, number))
                yield _composed(draw(rng), stamps, rng, source)
                number += 1


def _grounds(kind: str, entropy: tuple[int, ...]) -> Generator[list[Drawer], None, None]:
    """Yields, source by source, what draws each of its grounds."""
    if kind in GAMES:
        game_seed = int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 8)
        with closing(episodes_of(kind, game_seed)) as played:
            for frames in played:
                yield [_from_frame(frame) for frame in frames for _ in range(PICTURES_A_FRAME)]
    for source in range(1 << 30):
        yield [_from_look(kind, (*entropy, LOOK, source))] * PICTURES_A_LOOK


def _from_frame(frame: NDArray[np.uint8]) -> Drawer:
    return lambda rng: part_of(frame, SIDE_PIXELS, rng)


def _from_look(kind: str, entropy: tuple[int, ...]) -> Drawer:
    return lambda rng: draw_ground(kind, SIDE_PIXELS, np.random.default_rng(entropy), rng)


def _composed(ground: Ground, stamps: list[Stamp], rng: Rng, source: int) -> Composite:
    lit = replace(light.draw(rng), mirrored=False).on(np.round(255 * ground).astype(np.uint8)[None])[0]
    picture = lit.astype(np.float32) / 255
    placed = _stamped(picture, stamps, rng)
    pixels = np.round(255 * np.clip(picture, 0, 1)).astype(np.uint8)
    seen = look(pixels[None])
    seen = {"brightness": seen["brightness"], "colour": seen["colour"], **placed}
    caption, said = write_caption(seen, rng)
    return Composite(pixels, caption, seen, said, source)


def _stamped(picture: Ground, stamps: list[Stamp], rng: Rng) -> Seen:
    """Pastes one to three stamps around one place, in place; says place, size and number."""
    place = list(PLACES)[int(rng.integers(len(PLACES)))]
    size = list(SIZES)[int(rng.integers(len(SIZES)))]
    count = int(rng.integers(1, len(COUNTS) + 1))
    side = len(picture)
    middle = side * (0.5 + OFF * np.array(PLACES[place]) + rng.uniform(-0.05, 0.05, 2))
    turn = rng.uniform(0, 2 * np.pi)
    for number in range(count):
        cut = stamps[int(rng.integers(len(stamps)))].scaled(side * rng.uniform(*SIZES[size]))
        angle = turn + 2 * np.pi * number / count
        apart = (count > 1) * side * SIZES[size][0] * 0.55
        x, y = middle + apart * np.array([np.cos(angle), np.sin(angle)])
        paste(picture, cut, round(y - cut.shape[0] / 2), round(x - cut.shape[1] / 2))
    return {"place": place, "size": size, "count": COUNTS[count - 1]}
