"""Codes each patch of a frame as its first principal components, each scaled to unit variance.

The codec is linear; frames are coded one by one. Legend: B clips, T frames, H x W pixels, h x w patches, p
patch side, D = 3 p p pixels of a patch, C latent channels.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from paris_p2p.disk import write_atomic
from paris_p2p.errors import DataError, UsageError

FILE_NAME = "pca.safetensors"
MAX_PATCH_PIXELS = 32
MAX_FILE_BYTES = 128 << 20


@dataclass(frozen=True)
class PcaCodec:
    """Codes patches by PCA fitted on the run's own clips; channels are sorted by variance."""

    patch_pixels: int
    mean: Tensor  # [D], pixels in [-1, 1]
    components: Tensor  # [D, C], orthonormal columns
    std: Tensor  # [C], of the train patches' coordinates

    @property
    def name(self) -> str:
        return "pca"

    @property
    def channels(self) -> int:
        return self.components.shape[1]

    @torch.inference_mode()
    def encode(self, video: Tensor) -> Tensor:
        """Encodes uint8 [B, T, H, W, 3] -> fp32 [B, C, T, H/p, W/p].

        UsageError when p does not divide H and W.
        """
        x = _patches(video.to(self.mean.device), self.patch_pixels)  # B T h w D
        z = (x - self.mean) @ self.components / self.std  # B T h w C
        return rearrange(z, "b t h w c -> b c t h w").contiguous()

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Decodes fp32 [B, C, T, H/p, W/p] -> uint8 [B, T, H, W, 3]."""
        z = rearrange(latents.to(self.mean.device, torch.float32), "b c t h w -> b t h w c")
        x = (z * self.std) @ self.components.T + self.mean  # B T h w D
        p = self.patch_pixels
        pixels = rearrange(x, "b t h w (ph pw c) -> b t (h ph) (w pw) c", ph=p, pw=p, c=3)
        return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    def to(self, device: str) -> PcaCodec:
        return PcaCodec(
            self.patch_pixels, self.mean.to(device), self.components.to(device), self.std.to(device)
        )

    def to_bytes(self) -> bytes:
        """Returns a safetensors file; the same codec gives the same bytes."""
        # One metadata key: safetensors does not promise an order among several.
        about = {"codec": "pca", "version": 1, "patch_pixels": self.patch_pixels}
        metadata = {"paris": json.dumps(about, sort_keys=True)}
        tensors = {"mean": self.mean, "components": self.components, "std": self.std}
        return save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, metadata)

    def save(self, folder: Path) -> Path:
        """Writes `pca.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE_NAME
        write_atomic(path, self.to_bytes())
        return path

    @classmethod
    def load(cls, folder: Path) -> PcaCodec:
        """Reads and checks `pca.safetensors`; DataError when it is not a PCA codec."""
        path = folder / FILE_NAME
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise DataError(
                    f"{path} has {path.stat().st_size} bytes; a PCA codec has at most {MAX_FILE_BYTES}"
                )
            data = path.read_bytes()
            (header_bytes,) = struct.unpack_from("<Q", data)
            about = json.loads(data[8 : 8 + header_bytes])["__metadata__"]["paris"]
            patch = json.loads(about)["patch_pixels"]
            tensors = load(data)
            mean, components, std = tensors["mean"], tensors["components"], tensors["std"]
        except (OSError, ValueError, KeyError, TypeError, struct.error, SafetensorError) as error:
            raise DataError(
                f"{path} is not a PCA codec ({type(error).__name__}: {error}); prepare or fetch it again"
            ) from error
        _check(path, patch, mean, components, std)
        return cls(patch, mean, components, std)


def fit_pca(batches: Iterable[Tensor], patch_pixels: int, channels: int) -> PcaCodec:
    """Fits on uint8 [B, T, H, W, 3] batches in one pass; memory does not grow with their number."""
    width = 3 * patch_pixels**2
    if not 1 <= channels <= width or not 1 <= patch_pixels <= MAX_PATCH_PIXELS:
        raise UsageError(
            f"a patch of side {patch_pixels} (at most {MAX_PATCH_PIXELS}) has {width} numbers, "
            f"not {channels} channels"
        )
    rows = (rearrange(_patches(video, patch_pixels), "b t h w d -> (b t h w) d") for video in batches)
    return PcaCodec(patch_pixels, *principal_components(rows, width, channels))


def principal_components(
    batches: Iterable[Tensor], width: int, channels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns mean [D], components [D, C] and standard deviations [C], largest first, of fp32 rows [N, D].

    The rows come in batches; D is `width`.
    """
    count = 0
    total = torch.zeros(width, dtype=torch.float64)
    outer = torch.zeros(width, width, dtype=torch.float64)
    for x in batches:
        count += x.shape[0]
        total += x.sum(0, dtype=torch.float64)
        # One batch's product is exact enough in fp32; the sum over batches is not left to it.
        outer += (x.T @ x).double()
    if count <= channels:
        raise DataError(f"{count} patches are too few to fit {channels} channels; give more clips")
    mean = total / count
    variances, vectors = torch.linalg.eigh(outer / count - torch.outer(mean, mean))  # ascending
    components = vectors.flip(1)[:, :channels]
    # eigh leaves the signs open.
    components = components * components.gather(0, components.abs().argmax(0, keepdim=True)).sign()
    std = variances.flip(0)[:channels].clamp_min(0).sqrt()
    # A channel without variance is left alone, not blown up.
    std = std.clamp_min(max(float(std[0]) * 1e-4, 1e-6))
    return mean.float(), components.float().contiguous(), std.float()


def default_patch(height: int, width: int) -> tuple[int, int]:
    """Returns (patch side, channels) for a resolution: small patches for small pictures.

    The patch side divides both sides of the picture.
    """
    side, channels = next((p, c) for limit, p, c in _DEFAULTS if min(height, width) <= limit)
    while height % side or width % side:
        side //= 2
    return side, min(channels, 3 * side * side)


_DEFAULTS = ((48, 4, 8), (128, 8, 16), (1 << 20, 16, 48))  # shorter side up to, patch side, channels


def _patches(video: Tensor, p: int) -> Tensor:
    if video.dtype != torch.uint8 or video.ndim != 5 or video.shape[-1] != 3:
        raise UsageError(f"a codec reads uint8 [B, T, H, W, 3], not {video.dtype} {tuple(video.shape)}")
    if video.shape[2] % p or video.shape[3] % p:
        raise UsageError(
            f"{video.shape[2]}x{video.shape[3]} pixels cannot be cut into patches of {p}; "
            f"choose sizes divisible by {p}"
        )
    return rearrange(video.float() / 127.5 - 1, "b t (h ph) (w pw) c -> b t h w (ph pw c)", ph=p, pw=p)


def _check(path: Path, patch: object, mean: Tensor, components: Tensor, std: Tensor) -> None:
    sane = isinstance(patch, int) and 1 <= patch <= MAX_PATCH_PIXELS
    width = 3 * patch**2 if isinstance(patch, int) else 0
    sane = sane and mean.shape == (width,) and components.ndim == 2 and components.shape[0] == width
    sane = sane and 1 <= components.shape[1] <= width and std.shape == (components.shape[1],)
    for tensor in (mean, components, std):
        sane = sane and tensor.dtype == torch.float32 and bool(torch.isfinite(tensor).all())
    if not sane or not bool((std > 0).all()):
        raise DataError(f"{path} is not a PCA codec: its tensors do not fit together; fetch it again")
