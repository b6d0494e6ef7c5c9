"""A small autoencoder fitted to the run's own pictures: diffusers' AutoencoderDC (DC-AE, arXiv 2410.10733), frame by frame.

It begins as patch PCA: its shortcuts only rearrange pixels, so PCA's components as the weights of two layers make the whole network
linear, and training starts from PCA's error. (From random weights a thousand steps do not get there.) The loss is the mean squared
error, which is what PSNR measures. Legend: N pictures, H x W pixels, p patch side, C latent channels, D = 3 p p, W = 4 p p channels.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from einops import rearrange
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.nn.functional import mse_loss, pixel_unshuffle

from paris_p2p.codec.pca import PcaCodec, fit_pca
from paris_p2p.errors import DataError, UsageError

COLOURS = 4  # that the shortcuts carry: red, green, blue, and one that is free in the encoder and constant in the decoder
PATCHES = (2, 4, 8, 16)
DEEP_LAYERS = (1, 2)  # residual blocks of encoder and decoder on latents; one where pixels are finer
CONSTANT = 16.0  # beside it pixels in [-1, 1] are small, and the norm at the end of the decoder is nearly linear
OFFSET = 2.0  # keeps pixels where the ReLU after that norm does nothing
WARMUP_STEPS = 50
FAN_IN = 64  # the learning rate is that of sums with as many inputs
CHECKPOINT_STEPS = 50
SCALED_ON_PICTURES = 512
PICTURES_AT_ONCE = 16
PROGRESS = "train codec"


@dataclass(frozen=True)
class LearnedOptions:
    """What the autoencoder is and how it is fitted; latents are H/patch x W/patch x channels."""

    patch_pixels: int
    channels: int
    steps: int
    batch_pictures: int = 16
    learning_rate: float = 1e-3
    rng_seed: int = 0


def fit_autoencoder(
    pictures: Tensor, options: LearnedOptions, folder: Path, device: str, progress: Callable[[str, int, int], None]
) -> Path:
    """Fit on uint8 [N, H, W, 3] and write a diffusers folder; what is there already is kept, a stopped fit goes on.

    The same pictures, options, device and threads give the same weights, stopped or not.
    """
    if (folder / "config.json").is_file():
        return folder
    checkpoint = folder.with_name(f"{folder.name}.training.safetensors")
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    model = build_autoencoder(options, pictures).to(device)
    optimizer = torch.optim.AdamW(_groups(model), lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    for step in range(_resume(checkpoint, model, optimizer), options.steps):
        _step(model, optimizer, pictures, options, step)
        progress(PROGRESS, step + 1, options.steps)
        if (step + 1) % CHECKPOINT_STEPS == 0:
            _save(checkpoint, model, optimizer, step + 1)
    _scale(model, pictures)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial, safe_serialization=True)
    partial.replace(folder)
    checkpoint.unlink(missing_ok=True)
    return folder


def build_autoencoder(options: LearnedOptions, pictures: Tensor) -> Any:
    """The AutoencoderDC that is PCA of these pictures, the same for a seed; UsageError when the patch side is none it can have."""
    from diffusers import AutoencoderDC

    patch = options.patch_pixels
    if patch not in PATCHES:
        raise UsageError(f"a trained codec halves the picture: its patch side is 2, 4, 8 or 16, not {patch}")
    halvings = PATCHES.index(patch) + 1
    widths = tuple(COLOURS * 4**i for i in range(halvings + 1))  # of which the first, the pixels' own, has no layer
    layers = (0, *(1,) * (halvings - 1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_seed(options, -1))
        model = AutoencoderDC(
            latent_channels=options.channels,
            encoder_block_out_channels=widths,
            decoder_block_out_channels=widths,
            encoder_layers_per_block=(*layers, DEEP_LAYERS[0]),
            decoder_layers_per_block=(*layers, DEEP_LAYERS[1]),
            encoder_qkv_multiscales=((),) * len(widths),
            decoder_qkv_multiscales=((),) * len(widths),
            encoder_out_shortcut=False,
            decoder_in_shortcut=False,
        )
    clips = rearrange(pictures, "n h w c -> n 1 h w c")
    _begin_as(model, fit_pca(torch.split(clips, PICTURES_AT_ONCE), patch, options.channels))
    return model


def _groups(model: Any) -> list[dict[str, Any]]:
    """Adam moves all inputs of a sum at once: steps are divided by their number (arXiv 2203.03466, Table 8), or PCA is lost in a few."""
    by_scale: dict[float, list[torch.nn.Parameter]] = {}
    for parameter in model.parameters():
        inputs = parameter[0].numel() if parameter.ndim > 1 else 1
        by_scale.setdefault(min(1.0, FAN_IN / inputs), []).append(parameter)
    return [{"params": parameters, "scale": scale} for scale, parameters in by_scale.items()]


@torch.no_grad()
def _begin_as(model: Any, pca: PcaCodec) -> None:
    """Weights that make the encoder PCA's, and the decoder too but for what the norm bends."""
    encoder, decoder = model.encoder, model.decoder
    for name, module in model.named_modules():
        if name.endswith(".norm"):  # the last step of a residual branch: nothing is added at first
            torch.nn.init.zeros_(module.weight)
        elif name.split(".")[-1] == "conv" and "conv_in" not in name and "conv_out" not in name:  # beside a shortcut: the same
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    rows = _channels_of_patch(pca.patch_pixels)                      # D
    analysis = pca.components / pca.std                              # D C
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
    last.bias[len(last.bias) * 3 // COLOURS :] = CONSTANT            # the fourth colour's
    inner = torch.arange(4 * COLOURS) < 4 * 3                        # of the norm's channels, the pixels
    decoder.norm_out.weight.copy_(torch.where(inner, CONSTANT / COLOURS**0.5, 0.0))
    decoder.norm_out.bias.copy_(torch.where(inner, OFFSET, 0.0))
    _centre(decoder.conv_out.conv, torch.eye(4 * 3, 4 * COLOURS), torch.full((4 * 3,), -OFFSET))


def _channels_of_patch(patch: int) -> Tensor:
    """[D]: where each pixel of a patch, in PCA's order, lies among the channels after all halvings."""
    place = rearrange(torch.arange(COLOURS * patch**2, dtype=torch.float32), "(h w c) -> 1 c h w", h=patch, w=patch)
    for _ in range(PATCHES.index(patch) + 1):
        place = pixel_unshuffle(place, 2)
    found = place.flatten().argsort()                                # of (h w c)
    return rearrange(found, "(h w c) -> h w c", h=patch, w=patch)[..., :3].flatten()


def _centre(convolution: torch.nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    """Only the middle of the 3 x 3 window counts."""
    torch.nn.init.zeros_(convolution.weight)
    convolution.weight[:, :, 1, 1] = weight
    assert convolution.bias is not None
    convolution.bias.copy_(bias)


def _step(model: Any, optimizer: torch.optim.Optimizer, pictures: Tensor, options: LearnedOptions, step: int) -> None:
    """One optimizer step; everything drawn depends on the seed and the step alone."""
    rng = torch.Generator().manual_seed(_seed(options, step))
    rows = torch.randint(len(pictures), (options.batch_pictures,), generator=rng)
    flipped = torch.rand(options.batch_pictures, generator=rng) < 0.5
    x = _floats(pictures[rows], model)                               # B 3 H W
    x = torch.where(flipped.to(x.device)[:, None, None, None], x.flip(-1), x)
    loss: Any = mse_loss(model.decode(model.encode(x).latent).sample, x)
    if not bool(loss.isfinite()):
        raise DataError(f"the codec's loss is not finite at step {step}; prepare with --codec pca, or another --rng-seed")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    rate = options.learning_rate * min(1.0, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / options.steps))
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    optimizer.step()


@torch.inference_mode()
def _scale(model: Any, pictures: Tensor) -> None:
    """Write each channel's mean and deviation over the pictures into the configuration, where every diffusers codec has them."""
    chosen = pictures[torch.linspace(0, len(pictures) - 1, min(len(pictures), SCALED_ON_PICTURES)).long()]
    latents = torch.cat([model.encode(_floats(part, model)).latent.cpu() for part in torch.split(chosen, PICTURES_AT_ONCE)])  # N C h w
    values = rearrange(latents.double(), "n c h w -> c (n h w)")
    mean, std = values.mean(1), values.std(1, correction=0).clamp_min(1e-6)
    model.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())


def _floats(pictures: Tensor, model: Any) -> Tensor:
    return rearrange(pictures.to(model.device), "b h w c -> b c h w").float() / 127.5 - 1


def _seed(options: LearnedOptions, step: int) -> int:
    return int.from_bytes(blake3(f"codec/{options.rng_seed}/{step}".encode()).digest()[:6], "big")


def _save(path: Path, model: Any, optimizer: torch.optim.Optimizer, steps: int) -> None:
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        tensors |= {f"avg.{name}": state["exp_avg"], f"square.{name}": state["exp_avg_sq"]}
    tensors["steps"] = torch.tensor(steps)
    partial = path.with_suffix(".partial")
    partial.write_bytes(save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}))
    partial.replace(path)


def _resume(path: Path, model: Any, optimizer: torch.optim.Optimizer) -> int:
    """Steps done; 0 when there is no whole checkpoint."""
    try:
        tensors = load(path.read_bytes())
    except (FileNotFoundError, SafetensorError):
        return 0
    model.load_state_dict({name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")})
    steps = int(tensors["steps"])
    for name, parameter in model.named_parameters():
        moments = {key: tensors[f"{part}.{name}"].to(parameter.device) for key, part in (("exp_avg", "avg"), ("exp_avg_sq", "square"))}
        optimizer.state[parameter] = {"step": torch.tensor(float(steps)), **moments}
    return steps


def options_key(options: LearnedOptions) -> dict[str, Any]:
    """What a fitted codec's name depends on, beside the pictures."""
    return {**asdict(options), "layers": DEEP_LAYERS, "warmup": WARMUP_STEPS}
