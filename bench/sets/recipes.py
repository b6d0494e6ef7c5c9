"""Lists the sets: how many pictures or clips, and how they become one."""

from __future__ import annotations

from bench.clips.captions import WORDS
from bench.sets.assembly import Recipe
from bench.sets.clip_parts import SAID
from bench.sets.composites import SIDE_PIXELS
from bench.sets.picture_words import VALUES
from examples.gameplay import FPS, FRAMES
from examples.gameplay import SIDE_PIXELS as CLIP_PIXELS
from paris_p2p.spec import ClipShape

PICTURES = {"train": 60_000, "validation": 1500, "test": 5000}
IMAGES = Recipe(
    stage="images",
    clip=ClipShape(frames=1, height=SIDE_PIXELS, width=SIDE_PIXELS, fps=1.0),
    clusters=10,
    attributes=VALUES,
    codec="train",
    patch_pixels=4,
    channels=8,
    codec_examples=4096,
    codec_steps=2000,
    held_out=5000,
)
CLIPS_IN_ALL = 16_000
CLIPS = Recipe(
    stage="clips",
    clip=ClipShape(frames=FRAMES, height=CLIP_PIXELS, width=CLIP_PIXELS, fps=FPS),
    clusters=3,
    attributes={name: tuple(WORDS[name]) for name in SAID},
    codec="pca",
    patch_pixels=8,
    channels=8,
    codec_examples=2048,
    feature_frames=2,
    held_out=2048,
    real_features=("transnetv2", "efficientnet-lite0"),
    probe=4000,
)
