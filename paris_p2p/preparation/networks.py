"""Defines what a prepare is asked for, and loads the frozen networks that follow: codec, text, features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field

from paris_p2p.codec.pca import PcaCodec
from paris_p2p.codec.text import MAX_TOKENS, TextEncoder, load_text_encoder
from paris_p2p.codec.video import Codec, check_first_latent, find_codec, latent_shape, load_codec
from paris_p2p.data.cache import Cache, cache_key
from paris_p2p.data.prepared import PreparedModel
from paris_p2p.data.sources import Skipped, Source
from paris_p2p.data.splits import SplitOptions
from paris_p2p.disk import named_path
from paris_p2p.errors import UsageError
from paris_p2p.features.image import DEFAULT_FRAMES, Features, load_features, of_first_frames
from paris_p2p.preparation.assembly import pin_model
from paris_p2p.preparation.encoding import Decoding
from paris_p2p.preparation.fit_codec import (
    KINDS,
    Fitting,
    codec_psnr_db,
    fit_learned,
    fit_patch_codec,
    learned_options,
)
from paris_p2p.progress import Progress
from paris_p2p.spec import ClipShape, Name
from paris_p2p.weights import ModelFiles, find_model_files, is_local

FIT_CLIPS_PER_SOURCE = 16  # so that the clips on which a codec is fitted come from many sources


class PrepareOptions(BaseModel):
    """Says how clips become a run's data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experts: int = Field(default=0, ge=0, le=256)  # 0: by the number of clips
    frames: int = Field(default=8, ge=1, le=1024)
    height: int = Field(default=64, ge=4, le=4096)
    width: int = Field(default=64, ge=4, le=4096)
    fps: float = Field(default=8.0, gt=0, le=1000)
    codec: str = "pca"
    pca_patch_pixels: int = Field(default=0, ge=0, le=32)  # 0: by the resolution (codec.pca.default_patch)
    pca_channels: int = Field(default=0, ge=0, le=3072)
    codec_steps: int = Field(default=1000, ge=1, le=10_000_000)  # of `train` and `train:video`
    # share of its steps that turn and shrink latents
    codec_equivariance: float = Field(default=0.0, ge=0, le=1)
    text: str = "minilm"
    # 0: as many as the captions have and the encoder takes.
    text_tokens: int = Field(default=0, ge=0, le=MAX_TOKENS)
    # Of captions that are not Unicode; empty: those are skipped.
    caption_encoding: str = Field(default="", max_length=40)
    features: Name = "efficientnet-lite0"  # stands in prepared.json as it is
    feature_frames: int = Field(default=DEFAULT_FRAMES, ge=1, le=1024)
    image_to_video: bool = False  # the router may know the first frames
    clips_per_video: int = Field(default=64, ge=1, le=100_000)
    splits: SplitOptions = SplitOptions()
    rng_seed: int = Field(default=0, ge=0, lt=2**53)
    shard_bytes: int = Field(default=128 << 20, ge=1)
    threads: int = Field(default=2, ge=1, le=256)  # videos worked on side by side
    device: str = "cpu"  # of codec, text encoder and features

    @property
    def clip(self) -> ClipShape:
        return ClipShape(frames=self.frames, height=self.height, width=self.width, fps=self.fps)


@dataclass(frozen=True)
class Networks:
    """Holds what clips are coded with, captions read with and clusters found with; all are frozen."""

    codec: Codec
    codec_files: ModelFiles | None  # None: the codec was fitted here
    text: TextEncoder
    features: Features
    psnr_db: float
    codec_name: str
    pca_psnr_db: float = 0.0  # beside a trained codec
    first_features: Features | None = None  # for image-to-video

    @property
    def codec_hash(self) -> str:
        """Returns the hash of the codec's files, or of the codec that was fitted here."""
        if isinstance(self.codec, PcaCodec):
            return blake3(self.codec.to_bytes()).hexdigest()
        return self.codec_files.sha256 if self.codec_files else ""

    def made_from(self, version: int, options: PrepareOptions) -> str:
        """Hashes what a video's cache file depends on beside the video."""
        kind, _, reference = self.features.name.partition(":")
        # One CLIP's files are two networks, `clip:` and `transformers:`; those of packages are known by their
        # hash alone.
        features = (self.features.sha256, self.features.frames, *((kind,) if reference else ()))
        first = ("first frames",) if options.image_to_video else ()
        clip = options.clip.model_dump(), options.clips_per_video
        return cache_key(version, *clip, self.codec_hash, features, *first)

    def pin_codec(self, folder: Path) -> PreparedModel:
        """Pins the codec as the run will name it.

        Its files go into the folder where they travel with the run.
        """
        if isinstance(self.codec, PcaCodec):
            path = self.codec.save(folder)
            return PreparedModel(name="pca", files={path.name: f"{folder.name}/{path.name}"})
        if self.codec_files is None:
            raise UsageError(f"the codec {self.codec_name} has no files to pin")
        return pin_model(self.codec_name, self.codec_files, is_local_name(self.codec_name), folder)

    def pin_features(self, name: str, folder: Path) -> PreparedModel:
        """Pins the feature network as the text encoder is pinned; that of a package by its hash alone."""
        _, _, reference = name.partition(":")
        if not reference:
            return PreparedModel(name=name, sha256=self.features.sha256)
        return pin_model(name, find_model_files(reference), is_local_name(name), folder)


@dataclass(frozen=True)
class Named:
    """Holds what an owner's options name, ready before any file is read, so that slips show at once."""

    text: TextEncoder
    features: Features
    codec_files: ModelFiles | None  # None: the codec is one to fit


def load_named(options: PrepareOptions) -> Named:
    """Loads what the options name.

    PresetError or UsageError for a name that leads nowhere, or what cannot be used.
    """
    files = None if options.codec in ("pca", *KINDS) else find_codec(options.codec)
    text = load_text_encoder(options.text, tokens=options.text_tokens, device=options.device)
    features = load_features(options.features, frames=options.feature_frames, device=options.device)
    return Named(text, features, files)


def prepare_networks(
    named: Named,
    train: Sequence[Source],
    options: PrepareOptions,
    decoding: Decoding,
    cache: Cache,
    progress: Progress,
) -> Networks:
    """Loads all networks, and fits the codec on the train sources where it is one to fit.

    UsageError when it cannot take the clips.
    """
    patch = options.pca_patch_pixels, options.pca_channels
    decoding = replace(decoding, max_clips=min(decoding.max_clips, FIT_CLIPS_PER_SOURCE))
    fitting = Fitting(train, decoding, cache, options.device, progress)
    learned = None
    if options.codec in KINDS:
        wished = learned_options(
            options.codec,
            options.clip,
            patch,
            options.codec_steps,
            options.rng_seed,
            options.codec_equivariance,
        )
        learned = fit_learned(options.codec, wished, fitting)
    name = f"diffusers:{learned.folder}" if learned else options.codec
    files = find_codec(name) if learned else named.codec_files
    codec: Codec
    if files is None:
        codec = fit_patch_codec(patch, fitting).to(options.device)
    else:
        codec = load_codec(name, files.folder, device=options.device)
    latent_shape(codec, options.clip)  # before the long part: it says so if the codec cannot take such clips
    if options.image_to_video:
        check_first_latent(codec, options.clip)
    psnr_db = learned.psnr_db if learned else codec_psnr_db(codec, train, decoding)
    first = of_first_frames(named.features) if options.image_to_video else None
    pca_psnr_db = learned.pca_psnr_db if learned else 0.0
    return Networks(codec, files, named.text, named.features, psnr_db, name, pca_psnr_db, first)


def input_fingerprint(
    sources: Sequence[Source], skipped: Sequence[Skipped], options: PrepareOptions, version: int
) -> str:
    """Hashes all that a prepare's result depends on."""
    listed = [
        (s.name, str(s.path.absolute()), s.size_bytes, s.mtime_ns, s.caption, s.group, *map(astuple, s.timed))
        for s in sources
    ]
    models = [
        [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in _model_files(name)]
        for name in (options.codec, options.text, options.features)
    ]
    wished = options.model_dump(exclude={"threads", "device"})
    if not options.codec_equivariance:  # so that what was prepared without it is found again
        del wished["codec_equivariance"]
    # Lists of older versions lacked them.
    groups = ("groups in the list",) if any(s.group for s in sources) else ()
    return cache_key(version, listed, [skip.name for skip in skipped], wished, models, *groups)


def _model_files(name: str) -> list[Path]:
    """Returns what a model's name points at on this disk: a folder's files, or the file itself."""
    reference = name.partition(":")[2]
    if not reference:
        return []
    path = named_path(reference)
    if path.is_dir():
        return sorted(path.iterdir())
    return [path] if path.is_file() else []


def is_local_name(name: str) -> bool:
    """Says whether a model is named by a folder on this disk."""
    reference = name.partition(":")[2]
    return bool(reference) and is_local(reference)
