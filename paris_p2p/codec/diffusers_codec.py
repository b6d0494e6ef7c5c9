"""Runs any diffusers autoencoder, image or video, as a codec.

Latents are scaled as that model's own pipelines scale them; image autoencoders code frames one by one.
Legend: B clips, T frames, T' latent frames, H x W pixels, H' x W' latent sizes, C latent channels.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from paris_p2p.errors import PresetError
from paris_p2p.model_folder import check_complete, clean_config, laid_out, loading
from paris_p2p.weights import ModelFiles

# Read from the configuration here, whether or not the class reads them.
_STATISTICS = {"latents_mean", "latents_std", "scaling_factor", "shift_factor"}
FRAMES_AT_ONCE = 8  # bounds the activations of an image autoencoder


@dataclass(frozen=True)
class DiffusersCodec:
    """Codes clips with a frozen autoencoder.

    Latents are (z - mean - shift) * scale / std, with the numbers that the model's configuration gives.
    """

    name: str
    model: Any
    video: bool  # codes frames together
    mean: Tensor  # [C, 1, 1, 1] or scalar, shift included
    std: Tensor  # [C, 1, 1, 1] or scalar, divided by the scaling factor

    @torch.inference_mode()
    def encode(self, video: Tensor) -> Tensor:
        """Encodes uint8 [B, T, H, W, 3] -> fp32 [B, C, T', H', W'].

        It takes the posterior's mode, so that the result is the same every time.
        """
        x = rearrange(video.to(self.mean.device), "b t h w c -> b c t h w").float() / 127.5 - 1
        z = self._encode_video(x) if self.video else self._encode_frames(x)
        return ((z.float() - self.mean) / self.std).contiguous()

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Decodes fp32 [B, C, T', H', W'] -> uint8 [B, T, H, W, 3]."""
        z = latents.to(self.mean.device, torch.float32) * self.std + self.mean
        x = self._decode_video(z) if self.video else self._decode_frames(z)
        pixels = ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return rearrange(pixels, "b c t h w -> b t h w c").contiguous()

    def _encode_video(self, x: Tensor) -> Tensor:
        # One by one, because activations are large.
        return torch.cat([latents_of(self.model.encode(one)) for one in torch.split(x, 1)])

    def _encode_frames(self, x: Tensor) -> Tensor:
        frames = rearrange(x, "b c t h w -> (b t) c h w")
        z = torch.cat([latents_of(self.model.encode(part)) for part in torch.split(frames, FRAMES_AT_ONCE)])
        return rearrange(z, "(b t) c h w -> b c t h w", b=x.shape[0])

    def _decode_video(self, z: Tensor) -> Tensor:
        timed = self.model.config.get("timestep_conditioning")
        more = {"temb": torch.zeros(1, device=z.device)} if timed else {}
        return torch.cat([self.model.decode(one, **more).sample for one in torch.split(z, 1)])

    def _decode_frames(self, z: Tensor) -> Tensor:
        frames = rearrange(z, "b c t h w -> (b t) c h w")
        x = torch.cat([self.model.decode(part).sample for part in torch.split(frames, FRAMES_AT_ONCE)])
        return rearrange(x, "(b t) c h w -> b c t h w", b=z.shape[0])


def load_diffusers_codec(name: str, files: ModelFiles, device: str) -> DiffusersCodec:
    """Loads the autoencoder that the folder's config.json names, if it is in the table."""
    raw = files.config()
    kind = raw.get("_class_name")
    if not isinstance(kind, str) or kind not in _AUTOENCODERS:
        raise PresetError(
            f"{files.folder} is a {str(kind)[:80]}, not an autoencoder known here; "
            f"known: {', '.join(sorted(_AUTOENCODERS))}"
        )
    find, video = _AUTOENCODERS[kind]
    cls = find()
    known = (set(inspect.signature(cls.__init__).parameters) | _STATISTICS) - {"self", "kwargs"}
    config = {"_class_name": kind, **clean_config(raw, known, files.folder / "config.json")}
    what = f"the {kind}"
    with loading(what, files.folder), _quiet(), laid_out(files, config) as folder:
        model, info = cls.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    check_complete(what, files.folder, info)
    model = model.to(device).eval().requires_grad_(False)
    with loading(what, files.folder):
        scale = float(model.config.get("scaling_factor") or 1.0)
        shift = float(model.config.get("shift_factor") or 0.0)
        mean = _per_channel(model, "latents_mean", 0.0).to(device) + shift
        std = _per_channel(model, "latents_std", 1.0).to(device) / scale
    return DiffusersCodec(name, model, video, mean, std)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences diffusers' warning about latents_mean and latents_std, which it keeps for every class."""
    from diffusers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _per_channel(model: Any, key: str, otherwise: float) -> Tensor:
    """Returns [C, 1, 1, 1] from the configuration (Wan, Mochi) or a buffer (LTX), or a scalar."""
    values = model.config[key] if key in model.config else dict(model.named_buffers(recurse=False)).get(key)
    if values is None:
        return torch.tensor(otherwise)
    return rearrange(torch.as_tensor(values, dtype=torch.float32), "c -> c 1 1 1")


def latents_of(output: Any) -> Tensor:
    """Returns what an encoder gives: the mode of a posterior, or plain latents (AutoencoderTiny, -DC)."""
    posterior = getattr(output, "latent_dist", None)
    if posterior is not None:
        return posterior.mode()  # type: ignore[no-any-return]
    plain = getattr(output, "latents", None)
    return output.latent if plain is None else plain  # type: ignore[no-any-return]


def _class(name: str) -> Callable[[], Any]:
    def find() -> Any:
        import diffusers  # takes seconds: only when a codec is loaded

        found = getattr(diffusers, name, None)
        if found is None:
            raise PresetError(f"diffusers {diffusers.__version__} has no {name}; install a newer diffusers")
        return found

    return find


_IMAGE = ("AsymmetricAutoencoderKL", "AutoencoderDC", "AutoencoderKL", "AutoencoderTiny")
_VIDEO = (
    "AutoencoderKLCogVideoX", "AutoencoderKLHunyuanVideo", "AutoencoderKLHunyuanVideo15",
    "AutoencoderKLLTXVideo", "AutoencoderKLMagvit", "AutoencoderKLMochi", "AutoencoderKLQwenImage",
    "AutoencoderKLWan",
)  # fmt: skip
_AUTOENCODERS: dict[str, tuple[Callable[[], Any], bool]] = {
    **{name: (_class(name), False) for name in _IMAGE},
    **{name: (_class(name), True) for name in _VIDEO},
}
