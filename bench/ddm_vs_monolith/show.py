"""Prints a scale's plan: what each arm trains and costs, and which jobs there are."""

from __future__ import annotations

from collections import Counter

from bench.ddm_vs_monolith.arms import plan
from bench.ddm_vs_monolith.data import Bench
from bench.ddm_vs_monolith.jobs import graph
from paris_p2p.codec.text import DEFAULT_TOKENS
from paris_p2p.spec import LatentShape, TextShape

TEXT_WIDTH = 384  # MiniLM's


def shapes(bench: Bench) -> tuple[LatentShape, TextShape]:
    """Returns the shapes of the prepared clips; before there are any, what the scale will make of them."""
    if (bench.folder / "prepared.json").exists():
        return bench.prepared.latent, bench.prepared.text_shape
    scale = bench.scale
    side = scale.side_pixels // scale.pca[0]
    latent = LatentShape(channels=scale.pca[1], frames=scale.frames, height=side, width=side)
    return latent, TextShape(
        tokens=min(scale.text_tokens, DEFAULT_TOKENS), dim=TEXT_WIDTH, pooled_dim=TEXT_WIDTH
    )


def show_plan(bench: Bench) -> None:
    latent, text = shapes(bench)
    for arm in bench.scale.arms:
        row = plan(bench.scale, arm, latent, text)
        print(f"{arm.name}: {arm.title}")
        print(
            f"  {row.experts} x {row.expert_parameters:,} parameters, "
            f"router {row.router_parameters if row.router_batch_clips else 0:,}"
        )
        print(
            f"  {row.steps:,} steps of {row.batch_clips} clips (router {row.router_batch_clips}), "
            f"{row.clips:,} clips"
        )
        print(
            f"  {row.flops / 1e12:.2f} TFLOP to train ({row.router_share:.1%} the router), "
            f"{row.expert_flops / 1e6:.1f} MFLOP a clip"
        )
    jobs = graph(bench.scale)
    print(
        f"{len(jobs)} jobs: "
        + ", ".join(f"{count} {kind}" for kind, count in Counter(job.kind for job in jobs).items())
    )
