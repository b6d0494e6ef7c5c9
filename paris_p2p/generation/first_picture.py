"""Makes a picture the first frame of a clip: reads it, crops it to the run's size and encodes it as the
experts were given it in training.

Legend: B clips, C T H W latents, F features.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from paris_p2p.codec.video import Codec, check_first_latent, first_latent
from paris_p2p.data.decode import UnusableVideo
from paris_p2p.data.images import crop_image, decode_image
from paris_p2p.errors import DataError, UsageError
from paris_p2p.features.image import Features
from paris_p2p.model.first_frame import first_condition
from paris_p2p.spec import ClipShape
from paris_p2p.weights import read_pinned

MAX_IMAGE_BYTES = 256 << 20
FP16_MAX = 65504.0


@dataclass(frozen=True)
class Picture:
    """One first frame for all clips, or one for each, in pixels; and the hash of the file it is from."""

    pixels: Tensor  # uint8 [1 or B, 1, H, W, 3]
    sha256: str = ""


def read_picture(path: Path, shape: ClipShape) -> Picture:
    """Returns the picture in a file, cropped to its middle and scaled; UsageError when there is none."""
    content, sha256 = read_pinned(path, max_bytes=MAX_IMAGE_BYTES)
    try:
        frames = decode_image(io.BytesIO(content), shape)
    except UnusableVideo as unusable:
        raise UsageError(
            f"the image {path} cannot be used: {unusable.reason}, {unusable.detail}; give a PNG or JPEG"
        ) from unusable
    return Picture(torch.from_numpy(frames)[None], sha256)


def opened_picture(image: Image.Image | Path | str, shape: ClipShape) -> Picture:
    """Returns a picture that is in memory already, or in a file, in the same way; UsageError."""
    if not isinstance(image, Image.Image):
        return read_picture(Path(image), shape)
    try:
        return Picture(torch.from_numpy(crop_image(image.copy(), shape))[None])
    except UnusableVideo as unusable:
        raise UsageError(f"the image cannot be used: {unusable.reason}, {unusable.detail}") from unusable


def check_trained_for(rate: float, *, image: bool) -> None:
    """Raises UsageError when experts that were given first frames at this rate have not learnt to go with, or
    without, an image.
    """
    if image and not rate:
        raise UsageError(
            "the run was not trained to go on from an image (its first_frame_rate is 0); generate without one"
        )
    if rate == 1 and not image:
        raise UsageError(
            "the run was trained only to go on from an image (its first_frame_rate is 1); give one"
        )


def encode_first(codec: Codec, clip: ClipShape, picture: Picture, device: torch.device) -> Tensor:
    """Returns what experts are told of the picture: [B C+1 1 H W]; UsageError when the codec encodes it
    otherwise inside a clip.
    """
    check_first_latent(codec, clip)
    latent = first_latent(codec, picture.pixels).to(device)
    # out of inference mode
    return first_condition(latent, torch.ones(len(latent), dtype=torch.bool, device=device)).clone()


def look_at(network: Features, picture: Picture, width: int, device: torch.device) -> Tensor:
    """Returns the picture's features for the router, rounded as in the shards: [B F]; DataError when they are
    not as wide as the router takes them.
    """
    features = network(picture.pixels).to(device, torch.float32)
    if features.shape[1] != width:
        raise DataError(
            f"the feature network {network.name} gives {features.shape[1]} numbers of an image, "
            f"the run's router takes {width}"
        )
    return features.clamp(-FP16_MAX, FP16_MAX).half().float().clone()
