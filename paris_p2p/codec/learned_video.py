"""Builds a causal video autoencoder that begins as PCA of pairs of frames: LTX-Video's architecture, small.

Source: arXiv 2501.00103. Latent frame 0 is the first frame, latent frame m the frames 2m - 1 and 2m, and none
sees later ones, so that a clip of one frame is a picture. Both halves have one layer that makes or undoes a
patch of two frames; PCA's components are its weights, residual branches begin at zero, and a last layer takes
y and -y through the activation, for SiLU(y) - SiLU(-y) = y.
Legend: N clips, T frames, M = (T + 1) / 2 pairs, H x W pixels, p patch side, q = p / 2, C latent channels, D
= 2 * 3 p p, W channels of a layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from paris_p2p.codec.learned import FRAMES_AT_ONCE, LearnedOptions
from paris_p2p.codec.pca import principal_components
from paris_p2p.errors import UsageError

CONSTANT = 64.0  # in each layer's last channel; beside it the others are small and the norms nearly linear
LOG_VARIANCE = -30.0  # of the posterior, so that a sample of it is its mode


@dataclass(frozen=True)
class LearnedVideo:
    """Codes two frames as one; examples have an odd number of frames, three or more."""

    name: str = "video"
    frames_a_latent: int = 2
    batch_frames: int = 36
    # Residual blocks of encoder and decoder, on quarter patches and on latents.
    layers: tuple[int, int] = (1, 1)

    def check_frames(self, frames: int) -> None:
        """Raises UsageError unless `frames` is odd, so that a clip comes out as long as it went in."""
        if frames < 3 or frames % 2 == 0:
            raise UsageError(
                "--codec train:video codes the first frame alone and the others in pairs: "
                f"it takes an odd number of frames, 3 or more, not {frames}; prepare with --frames "
                f"{max(3, frames // 2 * 2 + 1)}, or with --codec train, which codes frames one by one"
            )

    def examples(self, clips: Tensor) -> Tensor:
        return clips

    def build(self, options: LearnedOptions, examples: Tensor) -> Any:
        """Builds an AutoencoderKLLTXVideo."""
        from diffusers import AutoencoderKLLTXVideo

        patch, channels = options.patch_pixels, options.channels
        self.check_frames(examples.shape[1])
        mean, components, std = pair_components(examples, patch, channels)
        pixels = 3 * (patch // 2) ** 2
        model = AutoencoderKLLTXVideo(
            latent_channels=channels,
            block_out_channels=(_width(pixels, 2 * channels),),
            decoder_block_out_channels=(_width(channels, 2 * pixels),),
            down_block_types=("LTXVideoDownBlock3D",),
            layers_per_block=self.layers,
            decoder_layers_per_block=self.layers,
            spatio_temporal_scaling=(True,),
            decoder_spatio_temporal_scaling=(True,),
            decoder_inject_noise=(False, False),
            downsample_type=("conv",),
            upsample_residual=(False,),
            upsample_factor=(1,),
            patch_size=patch // 2,
            decoder_causal=True,
        )
        with torch.no_grad():
            _neutral_branches(model)
            _begin_encoder(model.encoder, mean, components / std, patch)
            _begin_decoder(model.decoder, mean, components * std, patch)
        return model

    def arrange(self, pixels: Tensor) -> Tensor:
        return rearrange(pixels, "n t h w c -> n c t h w")

    def set_scale(self, model: Any, mean: Tensor, std: Tensor) -> None:
        model.latents_mean.copy_(mean)
        model.latents_std.copy_(std)


def pair_components(clips: Tensor, patch: int, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns PCA of patches of two frames, what a latent stands for: mean [D], components [D, C], std [C].

    The clips are uint8 [N, T, H, W, 3].
    """
    width = 2 * 3 * patch**2
    if not 1 <= channels <= width:
        raise UsageError(
            f"a patch of two frames of side {patch} has {width} numbers, not {channels} channels"
        )
    return principal_components(_pairs(clips, patch), width, channels)


def _pairs(clips: Tensor, patch: int) -> Iterator[Tensor]:
    """Yields batches of fp32 [N, D]; the first frame is its own partner, as in the causal layers."""
    for part in torch.split(clips, max(1, FRAMES_AT_ONCE // clips.shape[1])):
        x = torch.cat([part[:, :1], part], 1).float() / 127.5 - 1
        yield rearrange(x, "n (m f) (h ph) (w pw) c -> (n m h w) (f ph pw c)", f=2, ph=patch, pw=patch)


def _width(one: int, other: int) -> int:
    """Returns the channels for either, and the constant one."""
    return (max(one, other) + 1 + 7) // 8 * 8


def _neutral_branches(model: Any) -> None:
    """Makes residual branches add nothing at first, and hides the constant channel from them.

    It would drown the rest in their second norm.
    """
    for name, module in model.named_modules():
        if name.endswith(("conv1.conv", "conv2.conv")):
            torch.nn.init.zeros_(module.bias)
        if name.endswith("conv1.conv"):
            torch.nn.init.zeros_(module.weight[:, -1])
        if name.endswith("conv2.conv"):
            torch.nn.init.zeros_(module.weight)


def _begin_encoder(encoder: Any, mean: Tensor, analysis: Tensor, patch: int) -> None:
    """Sets layers that give pixels of quarter patches, then +z and -z, then z."""
    pixels, channels = 3 * (patch // 2) ** 2, analysis.shape[1]
    _set(encoder.conv_in.conv, torch.eye(len(encoder.conv_in.conv.weight), pixels), constant=True)
    down = encoder.down_blocks[0].downsamplers[0].conv
    _set(down, torch.zeros(down.out_channels, down.in_channels), constant=True)
    whole = rearrange(
        analysis, "(f i r j s c) z -> z (c s r) f i j", f=2, i=2, j=2, r=patch // 2, s=patch // 2
    )
    both = torch.cat([whole, -whole])
    # The window covers frames 2m - 1 and 2m, and of each the rows and columns 2i and 2i + 1.
    down.weight[: 2 * channels, :pixels, 1:, 1:, 1:] = both
    offset = -mean @ analysis
    down.bias[: 2 * channels] = torch.cat([offset, -offset])
    last = encoder.conv_out.conv
    _set(last, _difference(channels, last.in_channels, 2 * channels))
    last.bias[-1] = LOG_VARIANCE


def _begin_decoder(decoder: Any, mean: Tensor, synthesis: Tensor, patch: int) -> None:
    """Sets layers that give z, then +x and -x of quarter patches' pixels, then x."""
    pixels, channels = 3 * (patch // 2) ** 2, synthesis.shape[1]
    _set(decoder.conv_in.conv, torch.eye(decoder.conv_in.conv.out_channels, channels), constant=True)
    up = decoder.up_blocks[0].upsamplers[0].conv.conv
    cells = {"f": 2, "i": 2, "j": 2, "r": patch // 2, "s": patch // 2}
    weight = torch.zeros(decoder.conv_out.conv.in_channels, 2, 2, 2, up.in_channels)
    whole = rearrange(synthesis, "(f i r j s c) z -> (c s r) f i j z", **cells)
    weight[:pixels, ..., :channels], weight[pixels : 2 * pixels, ..., :channels] = whole, -whole
    level = torch.zeros(weight.shape[:-1])
    whole = rearrange(mean, "(f i r j s c) -> (c s r) f i j", **cells)
    level[:pixels], level[pixels : 2 * pixels], level[-1] = whole, -whole, CONSTANT
    _set(up, rearrange(weight, "w f i j z -> (w f i j) z"))
    up.bias.copy_(level.flatten())
    last = decoder.conv_out.conv
    _set(last, _difference(pixels, last.in_channels, pixels / 2))  # pixels' mean square is about a quarter


def _difference(count: int, width: int, power: float) -> Tensor:
    """Returns weights [count, width] that recover y from +y and -y after a norm.

    The norm's root mean square is that of the constant and of other channels of this power.
    """
    gain = ((CONSTANT**2 + power) / width) ** 0.5
    taken = torch.zeros(count, width)
    taken[:, :count] = gain * torch.eye(count)
    taken[:, count : 2 * count] = -gain * torch.eye(count)
    return taken


def _set(convolution: torch.nn.Conv3d, weight: Tensor, *, constant: bool = False) -> None:
    """Sets only this frame and the middle of the window; rows and columns that are not given are zero."""
    torch.nn.init.zeros_(convolution.weight)
    assert convolution.bias is not None
    torch.nn.init.zeros_(convolution.bias)
    convolution.weight[: weight.shape[0], : weight.shape[1], -1, 1, 1] = weight
    if constant:
        convolution.bias[-1] = CONSTANT
