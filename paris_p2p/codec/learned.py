"""Fits a small diffusers autoencoder to a run's own clips: trains, resumes and scales it.

What is trained, a `Kind`, begins as PCA: from random weights a thousand steps do not reach PCA's error. The
loss is the mean squared error, which is what PSNR measures.
Legend: N examples (of one frame each for an image kind), B of a step, T frames, H x W pixels, C latent
channels.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from blake3 import blake3
from einops import rearrange
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.nn.functional import mse_loss

from paris_p2p.codec.diffusers_codec import latents_of
from paris_p2p.codec.equivariance import changed_alike
from paris_p2p.disk import write_atomic
from paris_p2p.errors import DataError, UsageError

PATCHES = (2, 4, 8, 16)  # sides that halving a picture gives
WARMUP_STEPS = 50
FAN_IN = 64  # the learning rate is meant for sums with so many inputs
CHECKPOINT_STEPS = 50
SCALED_ON_FRAMES = 512
FRAMES_AT_ONCE = 16
PROGRESS = "train codec"


@dataclass(frozen=True)
class LearnedOptions:
    """Sets the size of the autoencoder and how it is fitted.

    Latents are H/patch x W/patch x channels.
    """

    patch_pixels: int
    channels: int
    steps: int
    batch_frames: int = 16  # in a step; at least one example
    learning_rate: float = 1e-3
    rng_seed: int = 0
    equivariance: float = 0.0  # share of the steps that decode turned and shrunk latents (equivariance.py)

    def __post_init__(self) -> None:
        if self.patch_pixels not in PATCHES:
            raise UsageError(
                "a trained codec halves the picture: its patch side is 2, 4, 8 or 16, "
                f"not {self.patch_pixels}; choose a height and width that 8 divides, or --codec pca"
            )


class Kind(Protocol):
    """Describes one architecture.

    It is a frozen dataclass, whose fields are all that its models depend on beside options and examples.
    """

    @property
    def name(self) -> str: ...

    @property
    def frames_a_latent(self) -> int:
        """Returns how many frames one latent frame stands for."""
        ...

    @property
    def batch_frames(self) -> int:
        """Returns the frames of a training step."""
        ...

    def check_frames(self, frames: int) -> None:
        """Raises UsageError when it cannot code clips of `frames` frames."""
        ...

    def examples(self, clips: Tensor) -> Tensor:
        """Returns what it learns from, of clips [B, T, H, W, 3]."""
        ...

    def build(self, options: LearnedOptions, examples: Tensor) -> Any:
        """Builds the model that is PCA of these uint8 [N, T, H, W, 3].

        Random weights are drawn from torch's default generator.
        """
        ...

    def arrange(self, pixels: Tensor) -> Tensor:
        """Returns pixels [N, T, H, W, 3] as the model takes them."""
        ...

    def set_scale(self, model: Any, mean: Tensor, std: Tensor) -> None:
        """Writes each channel's statistics [C] where diffusers' pipelines look for them."""
        ...


def fit_autoencoder(
    kind: Kind,
    examples: Tensor,
    options: LearnedOptions,
    folder: Path,
    device: str,
    progress: Callable[[str, int, int], None],
) -> Path:
    """Fits on uint8 [N, T, H, W, 3] and writes a diffusers folder.

    A folder that is there already is kept, and a stopped fit goes on. The same examples, options, device and
    threads give the same weights, stopped or not.
    """
    if (folder / "config.json").is_file():
        return folder
    checkpoint = folder.with_name(f"{folder.name}.training.safetensors")
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_seed(options, -1))
        model = kind.build(options, examples).to(device)
    optimizer = torch.optim.AdamW(
        _groups(model), lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=0.0
    )
    for step in range(_resume(checkpoint, model, optimizer), options.steps):
        _step(kind, model, optimizer, examples, options, step)
        progress(PROGRESS, step + 1, options.steps)
        if (step + 1) % CHECKPOINT_STEPS == 0:
            _save(checkpoint, model, optimizer, step + 1)
    kind.set_scale(model, *_statistics(kind, model, examples))
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial, safe_serialization=True)
    partial.replace(folder)
    checkpoint.unlink(missing_ok=True)
    return folder


def _groups(model: Any) -> list[dict[str, Any]]:
    """Divides each layer's steps by the number of its inputs, all of which Adam moves at once.

    Otherwise PCA is lost in a few steps (arXiv 2203.03466, Table 8).
    """
    by_scale: dict[float, list[torch.nn.Parameter]] = {}
    for parameter in model.parameters():
        inputs = parameter[0].numel() if parameter.ndim > 1 else 1
        by_scale.setdefault(min(1.0, FAN_IN / inputs), []).append(parameter)
    return [{"params": parameters, "scale": scale} for scale, parameters in by_scale.items()]


def _step(
    kind: Kind,
    model: Any,
    optimizer: torch.optim.Optimizer,
    examples: Tensor,
    options: LearnedOptions,
    step: int,
) -> None:
    """Takes one optimizer step; everything drawn depends on the seed and the step alone."""
    rng = torch.Generator().manual_seed(_seed(options, step))
    batch = max(1, options.batch_frames // examples.shape[1])
    rows = torch.randint(len(examples), (batch,), generator=rng)
    flipped = torch.rand(batch, generator=rng) < 0.5
    x = _floats(kind, examples[rows], model)  # B 3 .. H W
    x = torch.where(flipped.to(x.device).reshape(-1, *(1,) * (x.ndim - 1)), x.flip(-1), x)
    latents = latents_of(model.encode(x))
    if options.equivariance and float(torch.rand((), generator=rng)) < options.equivariance:
        latents, x = changed_alike(latents, x, rng)
    loss: Any = mse_loss(model.decode(latents).sample, x)
    if not bool(loss.isfinite()):
        raise DataError(
            f"the codec's loss is not finite at step {step}; prepare with --codec pca, or another --rng-seed"
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    warmup = min(1.0, (step + 1) / WARMUP_STEPS)
    rate = options.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * step / options.steps))
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    optimizer.step()


@torch.inference_mode()
def _statistics(kind: Kind, model: Any, examples: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the latents' mean and standard deviation [C].

    Scaled by them every channel has zero mean and unit variance.
    """
    frames = examples.shape[1]
    count = min(len(examples), max(1, SCALED_ON_FRAMES // frames))
    chosen = examples[torch.linspace(0, len(examples) - 1, count).long()]
    parts = torch.split(chosen, max(1, FRAMES_AT_ONCE // frames))
    codes = [latents_of(model.encode(_floats(kind, part, model))).cpu() for part in parts]
    latents = torch.cat(codes)  # N C ..
    values = rearrange(latents.double(), "n c ... -> c (n ...)")
    return values.mean(1), values.std(1, correction=0).clamp_min(1e-6)


def _floats(kind: Kind, examples: Tensor, model: Any) -> Tensor:
    return kind.arrange(examples.to(model.device)).float() / 127.5 - 1


def _seed(options: LearnedOptions, step: int) -> int:
    return int.from_bytes(blake3(f"codec/{options.rng_seed}/{step}".encode()).digest()[:6], "big")


def _save(path: Path, model: Any, optimizer: torch.optim.Optimizer, steps: int) -> None:
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        tensors |= {f"avg.{name}": state["exp_avg"], f"square.{name}": state["exp_avg_sq"]}
    tensors["steps"] = torch.tensor(steps)
    write_atomic(path, save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}))


def _resume(path: Path, model: Any, optimizer: torch.optim.Optimizer) -> int:
    """Loads the checkpoint and returns the steps done; 0 when there is no whole checkpoint."""
    try:
        tensors = load(path.read_bytes())
    except (FileNotFoundError, SafetensorError):
        return 0
    model.load_state_dict(
        {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    )
    steps = int(tensors["steps"])
    for name, parameter in model.named_parameters():
        moments = {
            key: tensors[f"{part}.{name}"].to(parameter.device)
            for key, part in (("exp_avg", "avg"), ("exp_avg_sq", "square"))
        }
        optimizer.state[parameter] = {"step": torch.tensor(float(steps)), **moments}
    return steps


def options_key(kind: Kind, options: LearnedOptions) -> dict[str, Any]:
    """Returns what a fitted codec's name depends on, beside the examples."""
    chosen = asdict(options)
    if not options.equivariance:  # so that codecs that were fitted without it are found again
        del chosen["equivariance"]
    return {**chosen, "kind": repr(kind), "warmup": WARMUP_STEPS}
