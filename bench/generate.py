"""Measures what routing costs: a step of the mixture beside one of a single expert, and offloading.

    .venv/bin/python -m bench.generate [--preset tiny] [--router tiny] [--batch 16] [--rounds 7] [--device
    auto]

Eight experts with random weights (the work does not depend on them), full guidance, the router included.
`routed` sends every clip to one expert; `mixed` spreads a batch of prompts over all experts, evenly, which is
the worst case. The three take turns, round by round, and a ratio is the median of the rounds'. With a GPU,
also its peak memory with one seat, beside what one expert and a step of it take.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.row import print_row
from bench.train_step import LATENT, TEXT, timed
from paris_p2p.device import Device, pick_device, set_threads
from paris_p2p.flow.condition import Condition
from paris_p2p.flow.guidance import guided_velocity
from paris_p2p.flow.mixture import Routing
from paris_p2p.generation.routed import Chooser, ExpertSeats, weights_type
from paris_p2p.model.presets import (
    Config,
    build_expert,
    build_router,
    count_parameters,
    expert_config,
    router_config,
)
from paris_p2p.model.router import Router

EXPERTS = 8
GUIDANCE = 4.0
GOALS = {"routed": 1.05, "mixed": 1.10, "memory": 1.25}
Step = Callable[[], Tensor]


class Spread(Router):
    """Routes as any router does, and then sends clip after clip to the next expert."""

    def forward(
        self, x_t: Tensor | None, t: Tensor | None, pooled: Tensor | None, first: Tensor | None = None
    ) -> Tensor:
        logits = super().forward(x_t, t, pooled, first)
        wanted = torch.arange(len(logits), device=logits.device) % logits.shape[1]
        return logits + 100 * nn.functional.one_hot(wanted, logits.shape[1])


def steps(preset: str, router_preset: str, batch: int, device: Device) -> dict[str, Step]:
    """Returns one guided velocity each: of one expert, of the mixture for like prompts, and for mixed
    ones.
    """
    torch.manual_seed(0)
    config = expert_config(preset, LATENT, TEXT)
    states = [state_of(config, device) for _ in range(EXPERTS)]
    pool = ExpertSeats(config, lambda k: states[k], device, EXPERTS)
    numbers = router_config(router_preset, LATENT, TEXT, EXPERTS)
    alike, spread = build_router(numbers), Spread(**numbers)
    x, t = (
        torch.randn(batch, *LATENT.shape, device=device.torch),
        torch.full((batch,), 0.5, device=device.torch),
    )
    tokens = torch.randn(batch, TEXT.tokens, TEXT.dim, device=device.torch)
    condition = Condition(
        tokens, torch.ones(batch, TEXT.tokens, dtype=torch.bool, device=device.torch), tokens.mean(1)
    )

    def step(router: Router | None, routing: Routing) -> Step:
        chooser = Chooser(router, EXPERTS, range(EXPERTS), routing)
        if router is not None:
            router.requires_grad_(False).eval().to(device.torch)
        velocity = guided_velocity("per_expert", pool, chooser, condition, GUIDANCE)
        return lambda: velocity(x, t)

    return {
        "single": step(None, Routing("single")),
        "routed": step(alike, Routing()),
        "mixed": step(spread, Routing()),
    }


def state_of(config: Config, device: Device) -> dict[str, Tensor]:
    """Returns random weights in the type that `expert_state` gives them on this device."""
    return {
        name: weight.detach().to(weights_type(device))
        for name, weight in build_expert(config).named_parameters()
    }


def offload_ratio(preset: str, batch: int, device: Device) -> float:
    """Returns the peak GPU memory of mixed prompts with one seat, over that of one expert alone."""

    def peak(clusters: int) -> int:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device.torch)
        config = expert_config(preset, LATENT, TEXT)
        waiting = [state_of(config, device) for _ in range(clusters)]
        pool = ExpertSeats(config, lambda k: waiting[k], device, 1)
        x, t = (
            torch.randn(batch, *LATENT.shape, device=device.torch),
            torch.full((batch,), 0.5, device=device.torch),
        )
        tokens, mask = (
            x.new_zeros(batch, TEXT.tokens, TEXT.dim),
            torch.ones(batch, TEXT.tokens, dtype=torch.bool, device=device.torch),
        )
        known = Condition(tokens, mask, tokens.mean(1))
        for k in range(clusters):
            pool.velocity(k, x, t, known)
        return int(torch.cuda.max_memory_allocated(device.torch))

    return peak(EXPERTS) / peak(1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--router", default="tiny")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--round-s", type=float, default=2.0, help="seconds of each in each round")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    set_threads(options.threads)
    device = pick_device(options.device)
    made = steps(options.preset, options.router, options.batch, device)
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for step in made.values():
        step()
    for _ in range(options.rounds):
        for name, step in made.items():
            seconds[name].append(timed(step, device, options.round_s))
    ratios = {
        name: statistics.median(a / b for a, b in zip(seconds[name], seconds["single"], strict=True))
        for name in ("routed", "mixed")
    }
    experts, router = (
        count_parameters(config, router=is_router)
        for config, is_router in (
            (expert_config(options.preset, LATENT, TEXT), False),
            (router_config(options.router, LATENT, TEXT, EXPERTS), True),
        )
    )
    result = (
        f"single expert {statistics.median(seconds['single']) * 1e3:.0f} ms; "
        f"routed top-1 **{ratios['routed']:.3f}** of it (wanted "
    )
    result += (
        f"{GOALS['routed']}); prompts of all {EXPERTS} experts **{ratios['mixed']:.3f}** (wanted "
        f"{GOALS['mixed']})"
    )
    if device.cuda:
        memory = offload_ratio(options.preset, options.batch, device)
        result += f"; peak memory with one seat {memory:.2f} of one expert's (wanted {GOALS['memory']})"
    networks = (
        f"expert `{options.preset}` {experts / 1e6:.1f}M, router `{options.router}` {router / 1e6:.1f}M"
    )
    print_row(f"guided step, {networks}, batch {options.batch}", result)


if __name__ == "__main__":
    main()
