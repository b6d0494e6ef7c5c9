"""Fits a run's own codec to train clips in the cache: patch PCA, or an autoencoder beside PCA.

The autoencoder (`--codec train` and `train:video`) is measured beside PCA at equal compression.
Legend: B clips, T frames, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from paris_p2p.codec.learned import Kind, LearnedOptions, fit_autoencoder, options_key
from paris_p2p.codec.learned_image import LearnedImage
from paris_p2p.codec.learned_video import LearnedVideo
from paris_p2p.codec.pca import FILE_NAME as PCA_FILE_NAME
from paris_p2p.codec.pca import PcaCodec, default_patch, fit_pca
from paris_p2p.codec.video import Codec, latent_shape, load_codec
from paris_p2p.data.cache import Cache, cache_key
from paris_p2p.data.decode import UnusableVideo
from paris_p2p.data.sources import Source
from paris_p2p.errors import DataError
from paris_p2p.preparation.encoding import Decoding, stack
from paris_p2p.progress import Progress
from paris_p2p.spec import ClipShape

KINDS: dict[str, Kind] = {
    "train": LearnedImage(),
    "train:image": LearnedImage(),
    "train:video": LearnedVideo(),
}
FIT_CLIPS = 512  # for a patch codec more change nothing
PSNR_CLIPS = 8
MAX_PICTURES_BYTES = 256 << 20
CLIPS_AT_ONCE = 16


@dataclass(frozen=True)
class Learned:
    """Holds a fitted codec's folder, and decibels on clips that neither it nor PCA was fitted on."""

    folder: Path
    psnr_db: float
    pca_psnr_db: float


@dataclass(frozen=True)
class Fitting:
    """Holds what a codec is fitted on (train sources only) and with."""

    sources: Sequence[Source]
    decoding: Decoding
    cache: Cache
    device: str
    progress: Progress


def fit_patch_codec(patch: tuple[int, int], fitting: Fitting) -> PcaCodec:
    """Fits the patch codec on the first clips that the sources give; the same sources give the same codec.

    `patch` is (side in pixels, channels), zero where the resolution decides.
    """
    sources, decoding, progress = fitting.sources, fitting.decoding, fitting.progress
    shape = decoding.shape
    side, channels = patch if all(patch) else default_patch(shape.height, shape.width)
    key = cache_key(_names(sources[:FIT_CLIPS]), shape.model_dump(), decoding.max_clips, side, channels)
    folder = fitting.cache.root / f"pca-{key[:32]}"
    if (folder / PCA_FILE_NAME).is_file():
        return PcaCodec.load(folder)

    def batches() -> Iterator[Tensor]:
        seen, reason = 0, "there are no files"
        for _, clips in decoding.decoded(sources):
            if isinstance(clips, UnusableVideo):
                reason = str(clips)
                continue
            yield stack(clips)
            seen += len(clips)
            progress("fit codec", min(seen, FIT_CLIPS), FIT_CLIPS)
            if seen >= FIT_CLIPS:
                break
        progress("fit codec", FIT_CLIPS, FIT_CLIPS)
        if not seen:
            wanted = f"{shape.frames} frames at {shape.fps:g} fps"
            raise DataError(
                f"none of {len(sources)} files gives a clip of {wanted} to fit the codec on; "
                f"the last one: {reason}"
            )

    codec = fit_pca(batches(), side, channels)
    codec.save(folder)
    return codec


def fit_learned(name: str, options: LearnedOptions, fitting: Fitting) -> Learned:
    """Fits the kind of this name on all but a few of the sources, which are kept to measure on."""
    kind, decoding = KINDS[name], fitting.decoding
    kind.check_frames(decoding.shape.frames)
    fitted, measured = _hold_out(fitting.sources)
    key = cache_key(
        _names(fitted), decoding.shape.model_dump(), decoding.max_clips, options_key(kind, options)
    )
    clips = _clips(fitted, decoding, fitting.progress)
    home = fitting.cache.root / f"codec-{key[:32]}" / f"trained-{kind.name}"
    folder = fit_autoencoder(kind, kind.examples(clips), options, home, fitting.device, fitting.progress)
    codec = load_codec(f"diffusers:{folder}", device=fitting.device)
    latent = latent_shape(codec, decoding.shape)
    # PCA gets as many numbers for a frame and patch as the codec keeps.
    numbers = math.ceil(latent.channels * latent.frames / decoding.shape.frames)
    channels = min(numbers, 3 * options.patch_pixels**2)
    pca = fit_pca(torch.split(clips, CLIPS_AT_ONCE), options.patch_pixels, channels)
    return Learned(folder, codec_psnr_db(codec, measured, decoding), codec_psnr_db(pca, measured, decoding))


def codec_psnr_db(codec: Codec, sources: Sequence[Source], decoding: Decoding) -> float:
    """Returns how well a few clips survive the codec, in dB; at most 99."""
    errors: list[float] = []
    for _, clips in decoding.decoded(sources[: 4 * PSNR_CLIPS]):
        if not isinstance(clips, UnusableVideo):
            video = stack(clips[:1])
            errors.append(
                float((codec.decode(codec.encode(video)).cpu().float() - video.float()).square().mean())
            )
        if len(errors) == PSNR_CLIPS:
            break
    mean = sum(errors) / max(1, len(errors))
    return min(99.0, 10 * math.log10(255**2 / max(mean, 1e-9)))


def _names(sources: Sequence[Source]) -> list[tuple[object, ...]]:
    """Returns what a codec fitted on these sources depends on."""
    return [(source.id, source.size_bytes, source.mtime_ns, *source.stretches_s) for source in sources]


def learned_options(
    name: str, clip: ClipShape, patch: tuple[int, int], steps: int, rng_seed: int, equivariance: float = 0.0
) -> LearnedOptions:
    """Returns PCA's patch, and its channels for each frame that a latent frame stands for.

    That gives about as many numbers as PCA's latents have.
    """
    kind = KINDS[name]
    side, channels = patch if all(patch) else default_patch(clip.height, clip.width)
    return LearnedOptions(
        side,
        kind.frames_a_latent * channels,
        steps,
        kind.batch_frames,
        rng_seed=rng_seed,
        equivariance=equivariance,
    )


def _hold_out(train: Sequence[Source]) -> tuple[list[Source], list[Source]]:
    """Keeps a few sources to measure on, spread over all.

    Neighbours are often alike, and the last ones of a kind that the others are not.
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
    """Returns uint8 [B, T, H, W, 3] of the first clips, bounded in number and bytes."""
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
