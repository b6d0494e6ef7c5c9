"""Builds an image autoencoder that begins as patch PCA: diffusers' AutoencoderDC, frame by frame.

Source: DC-AE (arXiv 2410.10733). Its shortcuts only rearrange pixels, so PCA's components as the weights of
two layers make the whole network linear.
Legend: N pictures, H x W pixels, p patch side, C latent channels, D = 3 p p, W = 4 p p channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pixel_unshuffle

from paris_p2p.codec.learned import FRAMES_AT_ONCE, PATCHES, LearnedOptions
from paris_p2p.codec.pca import PcaCodec, fit_pca

# The shortcuts carry red, green, blue, and one channel that is free in the encoder and constant in the
# decoder.
COLOURS = 4
# Beside it pixels in [-1, 1] are small, and the norm at the end of the decoder is nearly linear.
CONSTANT = 16.0
OFFSET = 2.0  # keeps pixels where the ReLU after that norm does nothing


@dataclass(frozen=True)
class LearnedImage:
    """Codes frames one by one: examples have one frame."""

    name: str = "image"
    frames_a_latent: int = 1
    batch_frames: int = 16
    # Residual blocks of encoder and decoder on latents; there is one where pixels are finer.
    deep_layers: tuple[int, int] = (1, 2)

    def check_frames(self, frames: int) -> None:
        """Accepts any number of frames."""

    def examples(self, clips: Tensor) -> Tensor:
        return rearrange(clips, "b t h w c -> (b t) 1 h w c")

    def build(self, options: LearnedOptions, examples: Tensor) -> Any:
        """Builds an AutoencoderDC."""
        from diffusers import AutoencoderDC

        patch = options.patch_pixels
        halvings = PATCHES.index(patch) + 1
        # The first width is that of the pixels themselves and has no layer.
        widths = tuple(COLOURS * 4**i for i in range(halvings + 1))
        layers = (0, *(1,) * (halvings - 1))
        model = AutoencoderDC(
            latent_channels=options.channels,
            encoder_block_out_channels=widths,
            decoder_block_out_channels=widths,
            encoder_layers_per_block=(*layers, self.deep_layers[0]),
            decoder_layers_per_block=(*layers, self.deep_layers[1]),
            encoder_qkv_multiscales=((),) * len(widths),
            decoder_qkv_multiscales=((),) * len(widths),
            encoder_out_shortcut=False,
            decoder_in_shortcut=False,
        )
        _begin_as(model, fit_pca(torch.split(examples, FRAMES_AT_ONCE), patch, options.channels))
        return model

    def arrange(self, pixels: Tensor) -> Tensor:
        return rearrange(pixels, "n 1 h w c -> n c h w")

    def set_scale(self, model: Any, mean: Tensor, std: Tensor) -> None:
        model.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())


@torch.no_grad()
def _begin_as(model: Any, pca: PcaCodec) -> None:
    """Sets weights that make the encoder PCA's, and the decoder too except for what the norm bends."""
    encoder, decoder = model.encoder, model.decoder
    for name, module in model.named_modules():
        if name.endswith(".norm"):  # the last step of a residual branch: nothing is added at first
            torch.nn.init.zeros_(module.weight)
        elif name.split(".")[-1] == "conv" and "conv_in" not in name and "conv_out" not in name:
            # A layer beside a shortcut adds nothing at first either.
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    rows = _channels_of_patch(pca.patch_pixels)  # D
    analysis = pca.components / pca.std  # D C
    _centre(encoder.conv_in.conv, torch.eye(COLOURS, 3), torch.zeros(COLOURS))
    into = torch.zeros(COLOURS * pca.patch_pixels**2, pca.channels)  # W C
    into[rows] = analysis
    _centre(encoder.conv_out, into.T, -pca.mean @ analysis)
    out = torch.zeros_like(into)
    out[rows] = pca.components * pca.std
    level = torch.zeros(len(into))
    level[rows] = pca.mean
    _centre(decoder.conv_in, out, level)
    last = decoder.conv_in if pca.patch_pixels == 2 else decoder.up_blocks[1][0].conv
    last.bias[len(last.bias) * 3 // COLOURS :] = CONSTANT  # of the fourth colour
    inner = torch.arange(4 * COLOURS) < 4 * 3  # the norm's channels that are pixels
    decoder.norm_out.weight.copy_(torch.where(inner, CONSTANT / COLOURS**0.5, 0.0))
    decoder.norm_out.bias.copy_(torch.where(inner, OFFSET, 0.0))
    _centre(decoder.conv_out.conv, torch.eye(4 * 3, 4 * COLOURS), torch.full((4 * 3,), -OFFSET))


def _channels_of_patch(patch: int) -> Tensor:
    """Returns where each pixel of a patch, in PCA's order, lies among the channels after halving: [D]."""
    place = rearrange(
        torch.arange(COLOURS * patch**2, dtype=torch.float32), "(h w c) -> 1 c h w", h=patch, w=patch
    )
    for _ in range(PATCHES.index(patch) + 1):
        place = pixel_unshuffle(place, 2)
    found = place.flatten().argsort()  # of (h w c)
    return rearrange(found, "(h w c) -> h w c", h=patch, w=patch)[..., :3].flatten()


def _centre(convolution: torch.nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    """Sets only the middle of the 3 x 3 window; the rest is zero."""
    torch.nn.init.zeros_(convolution.weight)
    convolution.weight[:, :, 1, 1] = weight
    assert convolution.bias is not None
    convolution.bias.copy_(bias)
