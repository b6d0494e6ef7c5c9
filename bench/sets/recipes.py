"""Lists the sets: how many pictures or clips, and how they become one."""

from __future__ import annotations

from bench.sets.assembly import Recipe
from bench.sets.composites import SIDE_PIXELS
from bench.sets.picture_words import VALUES
from paris_p2p.spec import ClipShape

IMAGES = Recipe(
    stage="images",
    clip=ClipShape(frames=1, height=SIDE_PIXELS, width=SIDE_PIXELS, fps=1.0),
    clusters=10,
    attributes=VALUES,
    codec="train",
    patch_pixels=4,
    channels=8,
    codec_examples=4096,
    codec_steps=3000,
    held_out=5000,
)
PICTURES = {"train": 60_000, "validation": 1500, "test": 5000}
