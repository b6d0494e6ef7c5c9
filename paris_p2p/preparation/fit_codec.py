"""`--codec train` and `train:video`: an autoencoder fitted to train clips in the cache, its figures beside
PCA's at equal compression.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from paris_p2p.codec.learned import Kind, LearnedOptions, fit_autoencoder, options_key
from paris_p2p.codec.learned_image import LearnedImage
from paris_p2p.codec.learned_video import LearnedVideo
from paris_p2p.codec.pca import default_patch, fit_pca
from paris_p2p.codec.video import latent_shape, load_codec
from paris_p2p.data.cache import Cache, cache_key
from paris_p2p.data.decode import UnusableVideo
from paris_p2p.data.sources import Source
from paris_p2p.errors import DataError
from paris_p2p.preparation.encoding import FIT_CLIPS, PSNR_CLIPS, Decoding, codec_psnr_db, stack
from paris_p2p.progress import Progress
from paris_p2p.spec import ClipShape

KINDS: dict[str, Kind] = {
    "train": LearnedImage(),
    "train:image": LearnedImage(),
    "train:video": LearnedVideo(),
}
MAX_PICTURES_BYTES = 256 << 20
CLIPS_AT_ONCE = 16


@dataclass(frozen=True)
class Learned:
    """A fitted codec's folder; decibels on clips that neither it nor PCA was fitted on."""

    folder: Path
    psnr_db: float
    pca_psnr_db: float


def fit_learned(
    name: str,
    train: Sequence[Source],
    decoding: Decoding,
    options: LearnedOptions,
    cache: Cache,
    device: str,
    progress: Progress,
) -> Learned:
    """Fit the kind of this name on all but a few of the sources (train only), which are kept to measure
    on.
    """
    kind = KINDS[name]
    kind.check_frames(decoding.shape.frames)
    fitted, measured = _hold_out(train)
    names = [(source.id, source.size_bytes, source.mtime_ns, *source.stretches_s) for source in fitted]
    key = cache_key(names, decoding.shape.model_dump(), decoding.max_clips, options_key(kind, options))
    clips = _clips(fitted, decoding, progress)
    home = cache.root / f"codec-{key[:32]}" / f"trained-{kind.name}"
    folder = fit_autoencoder(kind, kind.examples(clips), options, home, device, progress)
    codec = load_codec(f"diffusers:{folder}", device=device)
    latent = latent_shape(codec, decoding.shape)
    # a frame and patch, as many as the codec keeps
    numbers = math.ceil(latent.channels * latent.frames / decoding.shape.frames)
    pca = fit_pca(
        torch.split(clips, CLIPS_AT_ONCE), options.patch_pixels, min(numbers, 3 * options.patch_pixels**2)
    )
    return Learned(folder, codec_psnr_db(codec, measured, decoding), codec_psnr_db(pca, measured, decoding))


def learned_options(
    name: str, clip: ClipShape, patch: tuple[int, int], steps: int, rng_seed: int
) -> LearnedOptions:
    """PCA's patch, and its channels for each frame that a latent frame stands for: about as many numbers
    as PCA's latents.
    """
    kind = KINDS[name]
    side, channels = patch if all(patch) else default_patch(clip.height, clip.width)
    return LearnedOptions(side, kind.frames_a_latent * channels, steps, kind.batch_frames, rng_seed=rng_seed)


def _hold_out(train: Sequence[Source]) -> tuple[list[Source], list[Source]]:
    """A few sources to measure on, spread over all: neighbours are often alike, and the last ones of a
    kind that the others are not.
    """
    held = min(PSNR_CLIPS, len(train) // 4)
    if not held:
        raise DataError(
            f"{len(train)} files are too few to train a codec and to measure it; "
            "give more clips, or use --codec pca"
        )
    rows = {len(train) * i // held for i in range(held)}
    return [one for row, one in enumerate(train) if row not in rows], [train[row] for row in sorted(rows)]


def _clips(sources: Sequence[Source], decoding: Decoding, progress: Progress) -> Tensor:
    """uint8 [B, T, H, W, 3] of the first clips, bounded in number and bytes."""
    shape = decoding.shape
    wanted = max(1, min(FIT_CLIPS, MAX_PICTURES_BYTES // (shape.frames * shape.height * shape.width * 3)))
    parts: list[Tensor] = []
    count, reason = 0, "there are no files"
    for _, clips in decoding.decoded(sources):
        if isinstance(clips, UnusableVideo):
            reason = str(clips)
            continue
        parts.append(stack(clips[: wanted - count]))
        count += len(parts[-1])
        progress("read clips for the codec", count, wanted)
        if count >= wanted:
            break
    progress("read clips for the codec", wanted, wanted)
    if not parts:
        raise DataError(
            f"none of {len(sources)} files gives a clip to train a codec on; the last one: {reason}"
        )
    return torch.cat(parts)
