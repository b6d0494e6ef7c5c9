"""Prepares pictures for the networks that look at them: which frames, which size and colours, which name.

Legend: N pictures, side = the network's own rows and columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import interpolate

from paris_p2p.errors import UsageError
from paris_p2p.model_folder import read_config
from paris_p2p.weights import ModelFiles

MAX_SIDE_PIXELS = 2048
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Pictures:
    """Prepares pictures as a network wants them.

    The whole picture is resized to a square: wide clips are squeezed, nothing is cut off.
    """

    side_pixels: int
    mean: Tensor  # [3, 1, 1], of pixels in 0..255
    std: Tensor  # [3, 1, 1]
    mode: str = "bilinear"

    def __call__(self, images: Tensor) -> Tensor:
        side = self.side_pixels
        x = interpolate(
            images.float(), size=(side, side), mode=self.mode, antialias=True, align_corners=False
        )
        x = x.clamp(0, 255)  # bicubic overshoots
        return ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)  # N 3 side side


def middles(total: int, count: int) -> list[int]:
    """Returns the frames in the middles of `count` equal parts of a clip.

    Some come twice where the clip has fewer.
    """
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def preprocessing(files: ModelFiles, own_side: int, device: str, mode: str = "bilinear") -> Pictures:
    """Reads preprocessor_config.json.

    Where it is silent, the model's own side and ImageNet's colours are used.
    """
    config = read_config(files, "preprocessor_config.json")
    size = config.get("crop_size") or config.get("size") or {}
    side = size.get("height") or size.get("shortest_edge") or own_side if isinstance(size, dict) else size
    mean, std = config.get("image_mean") or _IMAGENET[0], config.get("image_std") or _IMAGENET[1]
    possible = type(side) is int and 1 <= side <= MAX_SIDE_PIXELS
    if not (possible and _is_colour(mean) and _is_colour(std) and all(std)):
        where = f"{files.folder / 'preprocessor_config.json'} asks for images of {str(side)[:40]} pixels"
        raise UsageError(f"{where} with mean {str(mean)[:60]} and std {str(std)[:60]}; that cannot be")
    scale = [255 * rearrange(torch.tensor(values, device=device), "c -> c 1 1") for values in (mean, std)]
    return Pictures(side, scale[0], scale[1], mode)


def _is_colour(values: Any) -> bool:
    """Says whether the values are three finite numbers."""
    if not isinstance(values, (list, tuple)) or len(values) != 3:
        return False
    return all(type(value) in (int, float) and math.isfinite(value) for value in values)


def titled(family: str, reference: str) -> str:
    """Returns a title such as `DINOv2 facebook/dinov2-large`, or a folder's own name."""
    path = Path(reference).expanduser()
    return f"{family} {path.resolve().name if path.is_dir() else reference}"
