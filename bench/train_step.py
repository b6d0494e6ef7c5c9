"""Times a training step of our experts beside diffusers' transformers, and against the machine's peak.

    .venv/bin/python -m bench.train_step [--preset tiny] [--rounds 7] [--batch 16] [--threads 2] [--device
    auto]

Equal width, latents (128 tokens), text and batch; the depth of diffusers' networks is what comes nearest to
our parameters, and the count is printed. A step is forward, backward and fused AdamW, in bfloat16 autocast
where the device has it. Networks take turns, round by round, so that a busy machine is busy for all; a ratio
is the median of the rounds' ratios. The peak is a square bfloat16 product, measured in the same rounds; FLOPs
are torch's FlopCounterMode's.
Legend: B clips, C T H W latents, N tokens, L text tokens, D text width.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import FluxTransformer2DModel, LatteTransformer3DModel, WanTransformer3DModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.row import print_row
from paris_p2p.device import Device, compile_blocks, pick_device, set_threads
from paris_p2p.model.presets import build_expert, expert_config
from paris_p2p.spec import LatentShape, TextShape

LATENT = LatentShape(channels=16, frames=8, height=8, width=8)
TEXT = TextShape(tokens=32, dim=384, pooled_dim=384)
PEAK_SIDE = {"cpu": 2048, "cuda": 8192}
GOALS = {"cpu": (1.6, 0.5), "cuda": (1.0, 0.5)}
Forward = Callable[[nn.Module, "Inputs"], Tensor]


@dataclass(frozen=True)
class Inputs:
    """Holds a batch, as training has it."""

    x_t: Tensor  # [B C T H W]
    t: Tensor  # [B]
    tokens: Tensor  # [B L D]
    mask: Tensor  # [B L]
    pooled: Tensor  # [B D]
    target: Tensor  # [B C T H W]


@dataclass
class Contestant:
    """Holds a network with its optimizer."""

    name: str
    network: nn.Module
    forward: Forward
    optimizer: torch.optim.Optimizer
    flops: int = 0

    @property
    def parameters(self) -> int:
        return sum(weight.numel() for weight in self.network.parameters())


def ours(network: nn.Module, inputs: Inputs) -> Tensor:
    out: Tensor = network(inputs.x_t, inputs.t, inputs.tokens, inputs.mask, inputs.pooled)
    return out


def wan(network: nn.Module, inputs: Inputs) -> Tensor:
    out: Tensor = network(inputs.x_t, inputs.t * 1000, inputs.tokens, return_dict=False)[0]
    return out


def latte(network: nn.Module, inputs: Inputs) -> Tensor:
    """Builds Latte without the text's mask, which diffusers 0.42 cannot spread over frames: a little less
    work.
    """
    out: Tensor = network(inputs.x_t, inputs.t * 1000, inputs.tokens, return_dict=False)[0]
    return out[:, : inputs.x_t.shape[1]]


def flux(network: nn.Module, inputs: Inputs) -> Tensor:
    """Builds FLUX, which takes packed patches; packing belongs to the step, as ours cuts patches itself."""
    clips, channels, frames, height, width = inputs.x_t.shape
    sizes = frames, height // 2, width // 2
    cut = inputs.x_t.reshape(clips, channels, frames, height // 2, 2, width // 2, 2)
    packed = cut.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3)
    places = torch.cartesian_prod(*(torch.arange(size, device=packed.device).float() for size in sizes))
    nowhere = places.new_zeros(inputs.tokens.shape[1], 3)
    text = {"encoder_hidden_states": inputs.tokens, "pooled_projections": inputs.pooled, "txt_ids": nowhere}
    out: Tensor = network(packed, timestep=inputs.t, img_ids=places, **text, return_dict=False)[0]
    grid = out.unflatten(1, sizes).unflatten(-1, (channels, 2, 2))
    return grid.permute(0, 4, 1, 2, 5, 3, 6).reshape(inputs.x_t.shape)


def rivals(config: dict[str, Any]) -> dict[str, tuple[Callable[[int], nn.Module], Forward]]:
    """Returns networks of diffusers with the width, heads and text of ours, by their depth."""
    width, heads = int(config["width"]), int(config["heads"])
    attention = {"num_attention_heads": heads, "attention_head_dim": width // heads}
    latent = {"in_channels": LATENT.channels, "out_channels": LATENT.channels}

    def make_wan(depth: int) -> nn.Module:
        return WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_layers=depth,
            text_dim=TEXT.dim,
            ffn_dim=4 * width,
            **attention,
            **latent,
        )

    def make_latte(depth: int) -> nn.Module:
        sizes = {"patch_size": 2, "sample_size": LATENT.height, "video_length": LATENT.frames}
        norms = {"norm_type": "ada_norm_single", "norm_elementwise_affine": False}
        text = {
            "cross_attention_dim": width,
            "caption_channels": TEXT.dim,
            "activation_fn": "gelu-approximate",
            "attention_bias": True,
        }
        return LatteTransformer3DModel(num_layers=depth, **attention, **latent, **sizes, **norms, **text)

    def make_flux(depth: int) -> nn.Module:
        per_axis = width // heads // 8 * 2
        axes = (width // heads - 2 * per_axis, per_axis, per_axis)
        text = {"joint_attention_dim": TEXT.dim, "pooled_projection_dim": TEXT.pooled_dim}
        depths = {"num_layers": depth, "num_single_layers": 2 * depth}
        return FluxTransformer2DModel(
            patch_size=1, in_channels=4 * LATENT.channels, axes_dims_rope=axes, **depths, **attention, **text
        )

    if config.get("architecture") == "mmdit":
        return {"FluxTransformer2DModel": (make_flux, flux)}
    return {"WanTransformer3DModel": (make_wan, wan), "LatteTransformer3DModel": (make_latte, latte)}


def nearest_depth(make: Callable[[int], nn.Module], parameters: int) -> int:
    """Returns the depth whose network has about as many parameters."""
    with torch.device("meta"):
        one, two = (sum(weight.numel() for weight in make(depth).parameters()) for depth in (1, 2))
    return max(1, round(1 + (parameters - one) / (two - one)))


def contestants(preset: str, device: Device, compiled: bool) -> list[Contestant]:
    """Returns the networks to time, ours first."""
    config = expert_config(preset, LATENT, TEXT)
    torch.manual_seed(0)
    networks: list[tuple[str, nn.Module, Forward]] = [(preset, build_expert(config), ours)]
    parameters = sum(weight.numel() for weight in networks[0][1].parameters())
    for name, (make, forward) in rivals(config).items():
        networks.append((name, make(nearest_depth(make, parameters)), forward))
    made = []
    for name, network, forward in networks:
        network.to(device.torch).train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
        if compiled:
            compile_blocks(network)
        made.append(Contestant(name, network, forward, optimizer))
    return made


def step(contestant: Contestant, inputs: Inputs, device: Device) -> None:
    with device.autocast():
        v = contestant.forward(contestant.network, inputs)
        loss = (v.float() - inputs.target).square().mean()
    torch.autograd.backward(loss)
    contestant.optimizer.step()
    contestant.optimizer.zero_grad(set_to_none=True)


def timed(work: Callable[[], object], device: Device, least_s: float) -> float:
    """Returns the seconds of one call, out of as many as fill `least_s`."""
    count, started = 0, time.perf_counter()
    while True:
        work()
        count += 1
        if device.cuda:
            torch.cuda.synchronize(device.torch)
        spent_s = time.perf_counter() - started
        if spent_s >= least_s:
            return spent_s / count


def peak_product(device: Device) -> tuple[Callable[[], object], int]:
    """Returns a square product in the training's precision, and its FLOPs."""
    side = PEAK_SIDE["cuda" if device.cuda else "cpu"]
    dtype = torch.bfloat16 if device.bf16 else torch.float32
    a, b = (torch.randn(side, side, device=device.torch, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out), 2 * side**3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--preset", default="tiny", help="an expert preset; mmdit-… is set beside FLUX's transformer"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="for all of them; unsaid: as training does"
    )
    parser.add_argument("--round-s", type=float, default=2.0, help="seconds of each network in each round")
    options = parser.parse_args()
    set_threads(options.threads)
    device = pick_device(options.device)
    inputs = made_inputs(options.batch, device)
    compiled = device.compiles if options.compile is None else options.compile
    networks = contestants(options.preset, device, compiled)
    for contestant in networks:
        with FlopCounterMode(display=False) as counter:
            step(contestant, inputs, device)
        contestant.flops = counter.get_total_flops()
        step(contestant, inputs, device)
    product, product_flops = peak_product(device)
    rates: dict[str, list[float]] = {contestant.name: [] for contestant in networks}
    peaks = []
    for _ in range(options.rounds):
        peaks.append(product_flops / timed(product, device, options.round_s / 2))
        for contestant in networks:
            seconds = timed(partial(step, contestant, inputs, device), device, options.round_s)
            rates[contestant.name].append(options.batch / seconds)
    report(networks, rates, peaks, options.batch, device, "blocks compiled" if compiled else "eager")


def made_inputs(batch_clips: int, device: Device) -> Inputs:
    torch.manual_seed(0)
    x, target = (torch.randn(batch_clips, *LATENT.shape, device=device.torch) for _ in range(2))
    tokens = torch.randn(batch_clips, TEXT.tokens, TEXT.dim, device=device.torch)
    mask = torch.arange(TEXT.tokens, device=device.torch).expand(batch_clips, -1) < 12
    return Inputs(x, torch.rand(batch_clips, device=device.torch), tokens, mask, tokens.mean(1), target)


def report(
    networks: list[Contestant],
    rates: dict[str, list[float]],
    peaks: list[float],
    batch: int,
    device: Device,
    kind: str,
) -> None:
    """Prints a row each, and what is to be said of ours."""
    mine = networks[0]
    for contestant in networks:
        rate = statistics.median(rates[contestant.name])
        share = statistics.median(
            r * contestant.flops / batch / peak for r, peak in zip(rates[contestant.name], peaks, strict=True)
        )
        ratio = statistics.median(
            a / b for a, b in zip(rates[mine.name], rates[contestant.name], strict=True)
        )
        print(
            f"{contestant.name:<26} {contestant.parameters / 1e6:7.2f}M parameters  "
            f"{contestant.flops / batch / 1e9:6.2f} GFLOP/clip  "
            f"{rate:7.1f} clips/s  {share:.2f} of the peak  ours/this {ratio:.2f}",
            flush=True,
        )
    best = max(networks[1:], key=lambda contestant: statistics.median(rates[contestant.name]))
    ratio = statistics.median(a / b for a, b in zip(rates[mine.name], rates[best.name], strict=True))
    share = statistics.median(
        r * mine.flops / batch / peak for r, peak in zip(rates[mine.name], peaks, strict=True)
    )
    wanted_ratio, wanted_share = GOALS["cuda" if device.cuda else "cpu"]
    print_row(
        f"training step of `{mine.name}`, {device.precision}, batch {batch}, {kind}",
        f"{statistics.median(rates[mine.name]):.1f} clips/s, "
        f"{ratio:.2f} of {best.name} (wanted {wanted_ratio}), {share:.2f} of the matrix "
        f"peak of {statistics.median(peaks) / 1e9:.0f} GFLOP/s (wanted {wanted_share})",
    )


if __name__ == "__main__":
    main()
