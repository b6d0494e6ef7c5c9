"""A small autoencoder fitted to the run's own pictures: diffusers' AutoencoderKL (arXiv 2112.10752), frame by frame.

The loss is the mean squared error, which is what PSNR measures, and a very small KL term: it keeps the latents from drifting apart
without costing reconstruction. Each channel is then shifted and scaled to zero mean and unit variance over the pictures.
Legend: N pictures, H x W pixels, C latent channels.
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
from torch.nn.functional import mse_loss

from paris_p2p.errors import DataError, UsageError

WIDTHS = (16, 32, 64, 64, 64)  # of the blocks, from the pixels inwards
KL_WEIGHT = 1e-6
CHECKPOINT_STEPS = 50
SCALED_ON_PICTURES = 512
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
    model = build_autoencoder(options).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
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


def build_autoencoder(options: LearnedOptions) -> Any:
    """The untrained AutoencoderKL, the same for a seed; UsageError when the patch side is none it can have."""
    from diffusers import AutoencoderKL

    halvings = options.patch_pixels.bit_length() - 1
    if 1 << halvings != options.patch_pixels or not 1 <= halvings < len(WIDTHS):
        raise UsageError(f"a trained codec halves the picture: its patch side is 2, 4, 8 or 16, not {options.patch_pixels}")
    blocks = halvings + 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_seed(options, -1))
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * blocks,
            up_block_types=("UpDecoderBlock2D",) * blocks,
            block_out_channels=WIDTHS[:blocks],
            layers_per_block=1,
            norm_num_groups=8,
            latent_channels=options.channels,
            mid_block_add_attention=False,
            scaling_factor=1.0,
        )


def _step(model: Any, optimizer: torch.optim.Optimizer, pictures: Tensor, options: LearnedOptions, step: int) -> None:
    """One optimizer step; everything drawn depends on the seed and the step alone."""
    rng = torch.Generator().manual_seed(_seed(options, step))
    rows = torch.randint(len(pictures), (options.batch_pictures,), generator=rng)
    flipped = torch.rand(options.batch_pictures, generator=rng) < 0.5
    x = _floats(pictures[rows], model)                                        # B 3 H W
    x = torch.where(flipped.to(x.device)[:, None, None, None], x.flip(-1), x)
    posterior = model.encode(x).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=rng).to(x.device)
    z = posterior.mean + posterior.std * noise                                # B C h w
    loss = mse_loss(model.decode(z).sample, x) + KL_WEIGHT * posterior.kl().mean()
    if not bool(loss.isfinite()):
        raise DataError(f"the codec's loss is not finite at step {step}; prepare with --codec pca, or another --rng-seed")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = options.learning_rate * 0.5 * (1 + math.cos(math.pi * step / options.steps))
    optimizer.step()


@torch.inference_mode()
def _scale(model: Any, pictures: Tensor) -> None:
    """Write each channel's mean and deviation over the pictures into the configuration, where every diffusers codec has them."""
    chosen = pictures[torch.linspace(0, len(pictures) - 1, min(len(pictures), SCALED_ON_PICTURES)).long()]
    latents = torch.cat([model.encode(_floats(part, model)).latent_dist.mode().cpu() for part in torch.split(chosen, 8)])  # N C h w
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
    return {**asdict(options), "widths": WIDTHS, "kl": KL_WEIGHT}
