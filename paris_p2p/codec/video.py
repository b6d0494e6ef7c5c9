"""Defines what a codec between pixels and latents is, and finds codecs by name.

Legend: B clips, T frames, T' latent frames, H x W pixels, H' x W' latent sizes, C latent channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from paris_p2p.codec.pca import PcaCodec
from paris_p2p.errors import PresetError, UsageError
from paris_p2p.spec import ClipShape, LatentShape
from paris_p2p.weights import ModelFiles, find_model_files

MAX_FIRST_ERROR = 0.02  # share of the latents' root mean square: rounding, and no more


class Codec(Protocol):
    """Turns pixels into latents of about zero mean and unit variance, and back.

    Results stay on the codec's device.
    """

    @property
    def name(self) -> str: ...

    def encode(self, video: Tensor) -> Tensor:
        """Encodes uint8 [B, T, H, W, 3] -> fp32 [B, C, T', H', W']."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Decodes fp32 [B, C, T', H', W'] -> uint8 [B, T, H, W, 3]."""
        ...


def load_codec(
    name: str, folder: Path | None = None, *, revision: str = "", sha256: str = "", device: str = "cpu"
) -> Codec:
    """Loads `pca`, or `diffusers:<folder or hub id>`; what `folder` holds is read before what the name says.

    `revision` and `sha256` (of a RunSpec) pin a hub model; BlobError when the files hash otherwise.
    """
    if name == "pca":
        if folder is None:
            raise UsageError(
                "the codec pca is a file of the run, pca.safetensors; give the folder that holds it"
            )
        return PcaCodec.load(folder).to(device)
    from paris_p2p.codec.diffusers_codec import load_diffusers_codec

    return load_diffusers_codec(name, find_codec(name, folder, revision).check(sha256), device)


def find_codec(name: str, folder: Path | None = None, revision: str = "") -> ModelFiles:
    """Returns the files of a `diffusers:…` codec, fetched from the hub when they are not here."""
    kind, _, reference = name.partition(":")
    if kind != "diffusers" or not reference:
        raise PresetError(
            f"no codec is called {name!r}; "
            "use pca, diffusers:<folder or hub id> or (to prepare) train or train:video"
        )
    return find_model_files(reference, folder, revision)


def latent_shape(codec: Codec, clip: ClipShape) -> LatentShape:
    """Returns the shape of a clip's latents, by trying.

    UsageError when the codec does not give back as many frames and pixels.
    """
    black = torch.zeros(1, clip.frames, clip.height, clip.width, 3, dtype=torch.uint8)
    try:
        latents = codec.encode(black)
        back = codec.decode(latents)
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"the codec {codec.name} cannot take {clip.frames} frames of {clip.height}x{clip.width}: {error}"
        ) from error
    if back.shape != black.shape:
        frames, height, width = back.shape[1:4]
        raise UsageError(
            f"the codec {codec.name} makes {frames} frames "
            f"of {height}x{width} out of {clip.frames} of {clip.height}x{clip.width}; prepare the clips "
            f"with --frames {frames} --height {height} --width {width}, or such as the codec keeps"
        )
    channels, frames, height, width = latents.shape[1:]
    return LatentShape(channels=channels, frames=frames, height=height, width=width)


def first_latent(codec: Codec, pictures: Tensor) -> Tensor:
    """Encodes each picture as a clip of one frame: uint8 [B, 1, H, W, 3] -> fp32 [B, C, 1, H', W'].

    UsageError when the result is not one latent frame.
    """
    try:
        latents = codec.encode(pictures)
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"the codec {codec.name} cannot encode a single picture ({error}); "
            "clips cannot start from an image"
        ) from error
    if latents.shape[2] != 1:
        raise UsageError(
            f"the codec {codec.name} makes {latents.shape[2]} latent frames of a single picture; "
            "clips cannot start from an image"
        )
    return latents


def check_first_latent(codec: Codec, clip: ClipShape) -> None:
    """Checks, by trying, that a clip's first latent frame is what its first picture alone encodes to.

    The clip is noise, a new picture in each frame: what later frames change shows most there. UsageError says
    how far off it is.
    """
    draws = torch.Generator().manual_seed(0)
    video = torch.randint(
        0, 256, (1, clip.frames, clip.height, clip.width, 3), dtype=torch.uint8, generator=draws
    )
    inside, alone = codec.encode(video)[:, :, :1].float(), first_latent(codec, video[:, :1]).float()
    error = float((inside - alone).square().mean().sqrt() / inside.square().mean().sqrt().clamp(min=1e-6))
    if not error <= MAX_FIRST_ERROR:
        raise UsageError(
            f"the codec {codec.name} encodes a clip's first frame otherwise than the same picture alone: "
            f"they differ by {error:.3g} of the latents' size, at most {MAX_FIRST_ERROR} is allowed; "
            "to start clips from an image, use a causal codec or one that codes frames one by one"
        )
