"""What an evaluation makes and measures, as its owner asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from paris_p2p.errors import UsageError
from paris_p2p.features.image import check_features
from paris_p2p.flow.guidance import EVERYWHERE
from paris_p2p.generation.wishes import SamplingWishes, Wishes

MIN_CLIPS = 4
# of EvaluateOptions: these change what is measured of the clips, not the clips
NOT_OF_THE_CLIPS = frozenset(("features", "i3d_sha256", "aesthetic", "device", "threads", "probe_clips"))

# what clips were made with before these options were there
BEFORE_OPTIONS = {
    "kept_until": 0.0, "guidance_interval": EVERYWHERE, "autoguide": "", "autoguide_scale": 2.0,
}  # fmt: skip


class EvaluateOptions(SamplingWishes):
    """What is made and measured; changing what the clips are made from needs another folder."""

    split: Literal["validation", "test"] = "test"
    clips: Annotated[int, Field(ge=MIN_CLIPS, le=1_000_000)] = 1000
    probe_clips: Annotated[int, Field(ge=0, le=1_000_000)] = 1000
    features: tuple[str, ...] = ("efficientnet-lite0", "transnetv2")
    rng_seed: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    image_to_video: bool = False  # every clip goes on from the first frame of the real one
    i3d_sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""
    aesthetic: Path | None = None  # LAION's head, on features that see captions too
    device: str = "auto"
    threads: Annotated[int, Field(ge=0, le=1024)] = 0


def check_named(options: EvaluateOptions) -> Wishes:
    """Returns how experts are asked; PresetError or UsageError, before anything is fetched, for what the
    options alone show to be wrong.
    """
    for name in options.features:
        check_features(name)
    if options.i3d_sha256 and not any(name.startswith("i3d:") for name in options.features):
        raise UsageError("--sha256 is of the I3D file, and no --features i3d:FILE is given")
    for name in options.features:
        kind, _, path = name.partition(":")
        if kind == "i3d" and not Path(path).is_file():
            raise UsageError(f"there is no file {path} for --features {name}; give the I3D file's path")
    if options.aesthetic is not None and not any(name.startswith("clip:") for name in options.features):
        raise UsageError("--aesthetic is of CLIP's features, and no --features clip: is given; add it")
    return options.wishes()
