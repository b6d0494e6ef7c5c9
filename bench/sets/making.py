"""Makes a whole set: draws what is missing, assembles it, and draws sheets to look at."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from bench.ddm_vs_monolith.results import write_json
from bench.sets.assembly import Drawn, Recipe, Say, assemble
from bench.sets.clip_parts import film_clips
from bench.sets.given_away import given_away
from bench.sets.image_parts import draw_pictures
from bench.sets.parts import Kept
from bench.sets.recipes import CLIPS, CLIPS_IN_ALL, IMAGES, PICTURES
from bench.when_experts_win.product_set import About, ProductSet, load
from paris_p2p.data.sheet import COLUMNS, ROWS, SheetBlock, contact_sheet

RECIPES = {"images": IMAGES, "clips": CLIPS}
SHEET, CODED_SHEET, GIVEN_AWAY = "clusters.png", "codec.png", "given-away.json"
LEAST_STEPS = 50  # of a codec that is trained to see that all works
MAGNIFIED = 2  # times, of pictures up to MAGNIFIED_UP_TO
MAGNIFIED_UP_TO = 48


@dataclass(frozen=True)
class Wish:
    """Says which set is to be made, where, and of how many clips in all."""

    stage: str
    out: Path
    share: float  # of the clips that the stage asks for
    stamps: Path  # where the cut-outs lie
    rng_seed: int
    jobs: int

    @property
    def work(self) -> Path:
        """Returns where drawn parts are kept; it may be deleted when the set is there."""
        return self.out.with_name(f"{self.out.name}-work")


def make_set(wish: Wish, say: Say) -> About:
    """Makes a set and returns what it is; what is there of it already is not made again."""
    began_s = time.monotonic()
    torch.set_num_threads(wish.jobs)
    parts = _drawn_parts(wish, say)
    say(f"drawn after {time.monotonic() - began_s:.0f} s")
    recipe, drawn = _recipe_of(wish), Drawn.read(parts)
    about = assemble(drawn, recipe, wish.out, wish.work, say)
    made = load(wish.out, check=False)
    draw_sheets(made, drawn, wish.out)
    write_json(wish.out / GIVEN_AWAY, given_away(made))
    say(f"the set is in {wish.out} after {time.monotonic() - began_s:.0f} s")
    return about


def draw_sheets(made: ProductSet, drawn: Drawn, out: Path) -> None:
    """Draws train clips of each cluster, and some clips above what the codec gives back of them."""
    rng = np.random.default_rng(0)
    train, cluster = made.rows(0).numpy(), made.cluster.numpy()
    blocks, coded = [], []
    for k in range(made.about.clusters):
        mine = train[cluster[train] == k]
        rows = np.sort(rng.permutation(mine)[: COLUMNS * ROWS])
        pictures = drawn.pixels(rows)
        blocks.append(SheetBlock(f"cluster {k}: {len(mine)} clips", _shown(pictures)))
        back = made.codec().decode(made.latents[rows[:COLUMNS]].float()).numpy()
        both = _shown(pictures[:COLUMNS]), _shown(back)
        coded.append(SheetBlock(f"cluster {k}, and through the codec", both[0] + both[1]))
    contact_sheet(blocks, out / SHEET)
    contact_sheet(coded, out / CODED_SHEET)


def _drawn_parts(wish: Wish, say: Say) -> list[Kept]:
    if wish.stage == "images":
        wanted = {name: max(1, round(wish.share * count)) for name, count in PICTURES.items()}
        return draw_pictures(wish.work, wanted, wish.stamps, wish.rng_seed, wish.jobs, say)
    count = round(wish.share * CLIPS_IN_ALL)
    return film_clips(wish.work, count, wish.stamps, wish.rng_seed, wish.jobs, say)


def _recipe_of(wish: Wish) -> Recipe:
    """Returns the stage's recipe, with as small a share of the codec's steps as of the clips."""
    recipe = RECIPES[wish.stage]
    steps = max(LEAST_STEPS, round(wish.share * recipe.codec_steps))
    return replace(recipe, codec_steps=steps, drawn_seed=wish.rng_seed)


def _shown(pixels: np.ndarray) -> list[np.ndarray]:
    """Returns each clip's middle frame, larger where it is small."""
    times = MAGNIFIED if pixels.shape[2] <= MAGNIFIED_UP_TO else 1
    large = np.ones((times, times, 1), np.uint8)
    return [np.kron(clip[len(clip) // 2], large) for clip in pixels]
