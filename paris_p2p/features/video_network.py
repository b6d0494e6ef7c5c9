"""Runs video networks that the user brings: I3D (of FVD) in TorchScript, VideoMAE as a transformers folder.

I3D: Carreira and Zisserman 2017 (arXiv 1705.07750), as a metric Unterthiner et al. 2018 (arXiv 1812.01717).
VideoMAE: Tong et al. 2022 (arXiv 2203.12602).
Legend: B clips, T frames, L tokens, F features.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor

from paris_p2p.errors import UsageError
from paris_p2p.features.pictures import middles, preprocessing, titled
from paris_p2p.transformers_model import architecture_of, load_transformers
from paris_p2p.weights import ModelFiles, find_model_files, read_pinned

CLIPS_AT_ONCE = 4  # bounds the activations
MAX_TORCHSCRIPT_BYTES = 1 << 30
I3D_TITLE = "I3D"
# The i3d_torchscript.pt of StyleGAN-V (arXiv 2112.14683).
I3D_SHA256 = "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"


@dataclass(frozen=True)
class VideoFeatures:
    """Maps uint8 [B, T, H, W, 3] to fp32 [B, F] over whole clips; `sha256` pins the weights."""

    name: str
    title: str
    sha256: str
    frames: int  # looked at in each clip, spread evenly; 0: all
    forward: Callable[[Tensor], Tensor]  # [B T H W 3] -> [B F]
    device: str

    @torch.inference_mode()
    def __call__(self, video: Tensor) -> Tensor:
        if self.frames:
            video = video[:, middles(video.shape[1], self.frames)]
        return torch.cat(
            [self.forward(part.to(self.device)).float() for part in torch.split(video, CLIPS_AT_ONCE)]
        )


def load_i3d(path: Path, *, sha256: str = "", device: str = "cpu") -> VideoFeatures:
    """Loads an I3D from a TorchScript file, called as StyleGAN-V's is.

    TorchScript is code: the user who names the file vouches for it. Only the known file is titled I3D, so
    that only its distance is called FVD. BlobError, before anything of it runs, when `sha256` is not the
    file's.
    """
    content, found = read_pinned(path, max_bytes=MAX_TORCHSCRIPT_BYTES, sha256=sha256)
    load: Any = torch.jit.load  # it has no types
    try:
        module = load(io.BytesIO(content), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"{path} is not a TorchScript file ({_first_line(error)}); give the i3d_torchscript.pt of an FVD"
        ) from error
    title = I3D_TITLE if found == I3D_SHA256 else f"{path.stem} {found[:8]} (TorchScript)"

    def forward(video: Tensor) -> Tensor:
        # Pixels stay in 0..255; the network itself resizes and rescales.
        x = rearrange(video, "b t h w c -> b c t h w").float()
        try:
            features = module(x, rescale=True, resize=True, return_features=True)
        except (RuntimeError, torch.jit.Error) as error:
            # A clip too short for its pooling is the usual cause.
            frames = f"clips of {video.shape[1]} frames (I3D needs about 10, FVD is reported for 16)"
            raise UsageError(f"{path} refused {frames}: {_last_line(error)}") from error
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(video):
            raise UsageError(
                f"{path} gave no [clips, features] for {len(video)} clips: it is not an I3D for FVD"
            )
        return features

    return VideoFeatures(f"i3d:{path}", title, found, 0, forward, device)


def load_videomae(reference: str, *, device: str = "cpu") -> VideoFeatures:
    """Loads a VideoMAE, pretrained or fine-tuned, from a folder or hub id.

    Its tokens are averaged, and normalised where it was fine-tuned so. It looks at as many frames as it was
    trained on: longer clips are thinned, frames of shorter ones come several times.
    """
    files = find_model_files(reference)
    load = _VIDEOMAE[architecture_of(files, _VIDEOMAE, "a VideoMAE")]
    backbone, norm = load(files)
    backbone = backbone.to(device).eval().requires_grad_(False)
    norm = norm.to(device).eval().requires_grad_(False)
    pictures = preprocessing(files, backbone.config.image_size, device)

    def forward(video: Tensor) -> Tensor:
        images = pictures(rearrange(video, "b t h w c -> (b t) c h w"))
        tokens = backbone(
            pixel_values=rearrange(images, "(b t) c h w -> b t c h w", b=len(video))
        ).last_hidden_state
        features: Tensor = norm(reduce(tokens, "b l f -> b f", "mean"))
        return features

    return VideoFeatures(
        f"videomae:{reference}",
        titled("VideoMAE", reference),
        files.sha256,
        backbone.config.num_frames,
        forward,
        device,
    )


def _pretrained(files: ModelFiles) -> tuple[Any, torch.nn.Module]:
    from transformers import VideoMAEModel

    return load_transformers(VideoMAEModel, files), torch.nn.Identity()


def _fine_tuned(files: ModelFiles) -> tuple[Any, torch.nn.Module]:
    from transformers import VideoMAEForVideoClassification

    model = load_transformers(VideoMAEForVideoClassification, files)
    return model.videomae, model.fc_norm or torch.nn.Identity()


_VIDEOMAE: dict[str, Callable[[ModelFiles], tuple[Any, torch.nn.Module]]] = {
    "VideoMAEModel": _pretrained,
    "VideoMAEForPreTraining": _pretrained,
    "VideoMAEForVideoClassification": _fine_tuned,
}


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]


def _last_line(error: Exception) -> str:
    """Returns the line where TorchScript says what was wrong, after its traceback."""
    return str(error).strip().rsplit("\n", 1)[-1]
